"""Trained tokens per second of this project's adapter training and of transformers' Trainer with PEFT.

    python benchmarks/llm_training.py --backbone smollm2-135m --steps 10 --threads 1

Both train the same backbone on the same sequences (histories of one domain, every title but the first
is a target) in the same batches, from the same initial adapter, with the same optimiser, schedule and
threads. The Trainer's side is what its documentation shows: PEFT's layers, right-padded batches, full
logits, the loss by transformers.

Each side runs in a process of its own. They take turns step by step, so that other programs on the
machine disturb both alike; the one whose turn it is not sleeps. The first step of each is not counted.
Ratios are given in wall seconds and in processor seconds (``CPU``), which say more on a busy machine.

Before each of our steps the machine's rate of bfloat16 (or ``--dtype``) products is measured on
matrices of the model's size: (1024 x d) by (d x f), ``d`` the hidden and ``f`` the feed-forward size.
The share of that rate which training reaches counts only what has to be computed::

    4 * N * tokens                     adapted layers: forward 2 N, gradient of their inputs 2 N
    + 6 * H * e * sum(length^2) * n    causal attention: 2 products forward, 4 backward, half a square
    + 4 * V * d * labels               vocabulary projection at labelled positions, both ways

with ``N`` the numbers in the adapted layers, ``n`` decoder layers, ``H`` heads of size ``e``, ``V``
tokens in the vocabulary. The layers are frozen, so their own gradient is not computed; the adapter's
products are below 5 % and are not counted. The gradient below the first adapted layer, which is not
needed, is counted (one layer of many).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.load import load_domain
from bench.llm.backbones import load_model, load_tokenizer, resolve_backbone
from bench.llm.batching import step_rows
from bench.llm.examples import Examples, sequence_examples
from bench.llm.lora import LoraSpec, target_modules, write_init
from bench.llm.prompts import PromptWriter
from bench.llm.template import load_template
from bench.llm.titles import prompt_titles
from bench.llm.training import TrainingSpec, train_adapter
from bench.methods import QuietProgress

GOAL = 2.0
LORA = LoraSpec()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--domain", default="ml100k-drama")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of each side, >= 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--batch-sequences", type=int, default=8)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--only", choices=("ours", "trainer"), help="measure one side alone")
    parser.add_argument("--side", choices=("ours", "trainer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def training_spec(args: argparse.Namespace) -> TrainingSpec:
    return TrainingSpec(
        batch_sequences=args.batch_sequences, micro_batch_tokens=args.micro_batch_tokens
    )


def make_examples(args: argparse.Namespace) -> Examples:
    """The newest 15 titles of the domain's sequences, as many as the steps need."""
    domain = load_domain(args.domain)
    tokenizer = load_tokenizer(resolve_backbone(args.backbone))
    titles = prompt_titles(list(domain.items.titles), tokenizer, max_tokens=24, max_chars=None)
    writer = PromptWriter(
        load_template("sequence"), tokenizer, titles, max_history=15, max_tokens=None
    )
    rows = np.flatnonzero(domain.sequences.lengths >= 2)[: args.steps * args.batch_sequences]
    return sequence_examples(writer, domain.sequences, rows)


class Turns:
    """The measured side's end of the conversation: one line per step, then wait for the next turn."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints goes elsewhere
        self._began: tuple[float, float] | None = None
        self.loss: float | None = None
        self.extra: dict[str, float] = {}

    def wait(self) -> None:
        self.tell()
        sys.stdin.readline()

    def start(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def tell(self, *, last: bool = False) -> None:
        if self._began is not None:
            self.extra["seconds"] = time.perf_counter() - self._began[0]
            self.extra["cpu"] = time.process_time() - self._began[1]
            self.extra["loss"] = float(self.loss) if self.loss is not None else float("nan")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        self._out.write(json.dumps({**self.extra, "memory": memory, "last": last}) + "\n")
        self._out.flush()
        self.extra, self._began = {}, None


def product_rate(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """FLOP per second of one product, median over a third of a second."""
    d, f = shape
    x, w = torch.randn(1024, d).to(dtype), torch.randn(f, d).to(dtype)
    out = torch.empty(1024, f, dtype=dtype)
    times: list[float] = []
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        torch.mm(x, w.t(), out=out)
        times.append(time.perf_counter() - began)
    return 2 * 1024 * d * f / statistics.median(times)


def run_ours(args: argparse.Namespace, turns: Turns) -> None:
    from transformers import AutoConfig

    backbone = resolve_backbone(args.backbone)
    config = AutoConfig.from_pretrained(backbone.folder)
    shape = (config.hidden_size, config.intermediate_size)
    dtype = getattr(torch, args.dtype)

    class StepByStep(QuietProgress):
        def track(
            self, items: Iterable[Any], *, total: int | None = None, description: str = ""
        ) -> Iterator[Any]:
            for item in items:
                turns.wait()
                turns.extra["rate"] = product_rate(shape, dtype)
                turns.start()
                yield item

        def status(self, text: str) -> None:
            turns.loss = float(text.removeprefix("loss "))

    report = train_adapter(
        backbone,
        make_examples(args),
        LORA,
        training_spec(args),
        init=args.folder / "init",
        order_seed=0,
        out=args.folder / "ours",
        checkpoints=args.folder / "checkpoints",
        device="cpu",
        dtype=args.dtype,
        progress=StepByStep(),
        log=logging.getLogger("ours"),
        checkpoint_seconds=1e9,
    )
    turns.loss = report.losses[-1]
    turns.extra["losses"] = report.losses  # type: ignore[assignment]
    turns.tell(last=True)


def run_trainer(args: argparse.Namespace, turns: Turns) -> None:
    from peft import PeftModel
    from transformers import Trainer, TrainingArguments

    backbone = resolve_backbone(args.backbone)
    examples = make_examples(args)
    spec = training_spec(args)
    rows = np.concatenate(list(step_rows(len(examples), spec.batch_sequences, 1, 0)))
    data = []
    for row in rows:
        part = slice(int(examples.offsets[row]), int(examples.offsets[row + 1]))
        tokens = torch.from_numpy(examples.tokens[part].astype(np.int64))
        labels = tokens.masked_fill(~torch.from_numpy(examples.labelled[part]), -100)
        data.append({"input_ids": tokens, "labels": labels})

    def collate(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [p["input_ids"] for p in parts]
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": pad([torch.ones_like(x) for x in ids], batch_first=True),
            "labels": pad([p["labels"] for p in parts], batch_first=True, padding_value=-100),
        }

    model = PeftModel.from_pretrained(
        load_model(backbone, dtype=args.dtype), args.folder / "init", is_trainable=True
    )
    losses: list[float] = []

    class InTurns(Trainer):
        def _get_train_sampler(self, *args: Any, **options: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

        def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
            turns.wait()
            turns.start()
            loss = super().training_step(*args, **options)
            losses.append(float(loss))
            turns.loss = losses[-1]
            return loss

    options = TrainingArguments(
        output_dir=str(args.folder / "trainer"),
        per_device_train_batch_size=spec.batch_sequences,
        num_train_epochs=1,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        max_grad_norm=spec.max_grad_norm,
        weight_decay=0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    InTurns(model=model, args=options, train_dataset=data, data_collator=collate).train()
    turns.extra["losses"] = losses  # type: ignore[assignment]
    turns.tell(last=True)


class Side:
    """The parent's end: starts a measured process and gives it its turns."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path):
        command = [sys.executable, __file__, "--side", name, "--folder", str(folder)]
        for option in ("backbone", "domain", "steps", "threads", "dtype"):
            command += [f"--{option}", str(getattr(args, option))]
        command += ["--batch-sequences", str(args.batch_sequences)]
        command += ["--micro-batch-tokens", str(args.micro_batch_tokens)]
        self.name = name
        self.steps: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early, exit code {self._process.wait()}")
        return json.loads(line)

    def turn(self) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.steps.append(self._read())
        if self.steps[-1]["last"]:
            self._process.wait()
            return False
        return True

    def total(self, figure: str) -> float:
        return sum(step[figure] for step in self.steps[1:])


def flops(args: argparse.Namespace, examples: Examples) -> np.ndarray:
    """What each step has to compute, by the formula above; float64 (steps,)."""
    model = load_model(resolve_backbone(args.backbone), dtype=args.dtype)
    config = model.config
    adapted = sum(a * b for a, b in target_modules(model, LORA).values())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * size
    lengths = np.diff(examples.offsets).astype(float)
    labels = np.add.reduceat(examples.labelled, examples.offsets[:-1].astype(np.int64), dtype=float)
    per_example = (
        4 * adapted * lengths
        + 6 * width * lengths**2 * config.num_hidden_layers
        + 4 * config.vocab_size * config.hidden_size * labels
    )
    steps = step_rows(len(examples), args.batch_sequences, 1, 0)
    return np.array([per_example[rows].sum() for rows in steps])


def report(args: argparse.Namespace, examples: Examples, sides: dict[str, Side]) -> int:
    lengths = np.diff(examples.offsets)
    rows = list(step_rows(len(examples), args.batch_sequences, 1, 0))
    tokens = sum(int(lengths[r].sum()) for r in rows[1:])
    print(
        f"{args.backbone}, {args.dtype}, {args.threads} thread(s): {len(rows)} steps of "
        f"{args.batch_sequences} sequences, {lengths.mean():.0f} tokens each, "
        f"{examples.n_labelled / examples.n_tokens:.0%} labelled"
    )
    for side in sides.values():
        wall, cpu = side.total("seconds"), side.total("cpu")
        print(
            f"{side.name:8s} {tokens / wall:7.0f} tokens/s  {tokens / cpu:7.0f} tokens/CPU s  "
            f"{side.steps[-1]['memory']:.2f} GB"
        )
    if "ours" in sides:
        ours = sides["ours"]
        rate = statistics.median(step["rate"] for step in ours.steps)
        needed = float(flops(args, examples)[1:].sum())
        print(
            f"products  {rate / 1e9:.0f} GFLOP/s; training reaches "
            f"{needed / ours.total('seconds') / rate:.1%} of it "
            f"({needed / ours.total('cpu') / rate:.1%} by CPU seconds)"
        )
    if len(sides) < 2:
        return 0
    curves = {name: np.array(side.steps[-1]["losses"]) for name, side in sides.items()}
    for name, curve in curves.items():
        print(f"loss {name:8s} {' '.join(f'{x:.4f}' for x in curve)}")
    apart = np.abs(curves["ours"] - curves["trainer"]).max()
    ratio = sides["trainer"].total("seconds") / sides["ours"].total("seconds")
    by_cpu = sides["trainer"].total("cpu") / sides["ours"].total("cpu")
    print(f"largest difference of the curves {apart:.4f} nats per label")
    print(f"ours is {ratio:.1f} times as fast ({by_cpu:.1f} by CPU seconds; goal {GOAL:.0f})")
    return 0 if by_cpu >= GOAL else 1


def main() -> int:
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    if args.side:
        run = {"ours": run_ours, "trainer": run_trainer}[args.side]
        run(args, Turns())
        return 0
    examples = make_examples(args)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_init(resolve_backbone(args.backbone), LORA, 0, folder / "init")
        names = [args.only] if args.only else ["ours", "trainer"]
        sides = {name: Side(name, args, folder) for name in names}
        waiting = list(sides.values())
        while waiting:
            waiting = [side for side in waiting if side.turn()]
        return report(args, examples, sides)


if __name__ == "__main__":
    sys.exit(main())
