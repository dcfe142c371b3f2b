"""Likelihood scoring of 30 candidates per user, beside 30 separate forward passes and generation.

``python benchmarks/llm_scoring.py [--backbone smollm2-135m] [--threads 1] [--adapter]`` scores random
prompts of P tokens with 30 random titles of T tokens (no common beginnings, the worst case for a
tree), on one processor, in bfloat16. Four contestants take turns in several rounds in one process,
so that other programs on the machine disturb all alike:

* ``engine``: ``branch_log_probs``, which reads the prompt once;
* ``own``: the engine as it treats a family that it does not know, by the model's own forward pass under
  a mask of the tree;
* ``separate``: what a careful user writes with transformers: 30 rows of prompt + title through the
  model, as many tokens at a time as the engine takes, the vocabulary projection at title tokens only
  and in parts that fit in memory. (Asking the
  model for ``logits_to_keep`` instead is several times slower on a processor: the sliced hidden
  states are not contiguous, and the product copies the output embedding once per row.)
* ``generate``: greedy answers as long as a list of five titles, several users at a time.

``--adapter`` puts a random LoRA of rank 16 on all linear layers; ``separate`` then runs PEFT.

``best`` is the least time per user over rounds, ``CPU`` the least processor time; ratios compare
processor times, which other programs disturb least. ``tokens`` is 30 (P + T) / (P + 30 T), the ratio
of the tokens that are read; ``share`` is how much of it is reached. Below each shape: how far the sums
of one user are from float32's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.llm.backbones import Backbone, load_model, resolve_backbone
from bench.llm.engines import make_engine
from bench.llm.engines.transformers import TransformersEngine
from bench.llm.own_forward import takes_tree_mask

N_CANDIDATES = 30
SHAPES = ((90, 17), (160, 9), (700, 20))
PROJECTED = 256

Users = list[tuple[NDArray[np.int32], list[NDArray[np.int32]]]]


def users_of(n: int, n_prompt: int, n_title: int, vocabulary: int) -> Users:
    rng = np.random.default_rng([n_prompt, n_title])

    def ids(length: int) -> NDArray[np.int32]:
        return rng.integers(5, vocabulary, length, dtype=np.int32)

    return [(ids(n_prompt), [ids(n_title) for _ in range(N_CANDIDATES)]) for _ in range(n)]


def separate(model: Any, body: Any, users: Users, batch_tokens: int) -> list[NDArray[np.float64]]:
    """30 rows of prompt + title per user, each read in full, as many at a time as fit."""
    head = model.get_output_embeddings()
    sums = []
    with torch.inference_mode():
        for prompt, titles in users:
            every = np.stack([np.concatenate([prompt, title]) for title in titles])
            parts = []
            for rows in torch.from_numpy(every.astype(np.int64)).split(
                max(1, batch_tokens // every.shape[1])
            ):
                hidden = body(input_ids=rows, use_cache=False).last_hidden_state
                hidden = hidden[:, len(prompt) - 1 : -1].reshape(-1, hidden.shape[-1])
                wanted = rows[:, len(prompt) :].reshape(-1, 1)
                parts += [
                    head(h).float().log_softmax(-1).gather(1, w)
                    for h, w in zip(hidden.split(PROJECTED), wanted.split(PROJECTED), strict=True)
                ]
            sums.append(torch.cat(parts).view(len(titles), -1).sum(dim=1).double().numpy())
    return sums


def random_adapter(backbone: Backbone, folder: Path) -> None:
    """A LoRA of rank 16 on all linear layers with both factors random."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(backbone), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)


def timed(work: Callable[[], object], n_users: int) -> tuple[float, float]:
    """Wall and processor seconds per user."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) / n_users, (time.process_time() - cpu) / n_users


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=8, help="users per round of the engine")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--adapter", action="store_true", help="with a random LoRA adapter")
    parser.add_argument("--no-generate", action="store_true", help="skip generation, the slowest")
    parser.add_argument(
        "--shape", type=int, nargs=2, action="append", metavar=("P", "T"), help="only these"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)

    backbone = resolve_backbone(arguments.backbone)
    model = load_model(backbone, dtype=arguments.dtype)
    body: Any = model.get_decoder()
    engine = make_engine(
        "transformers", backbone, dtype=arguments.dtype, batch_tokens=arguments.batch_tokens
    )
    other: Any = load_model(backbone, dtype=arguments.dtype)
    own_forward = TransformersEngine(other, batch_tokens=arguments.batch_tokens)
    own_forward._llama, own_forward._takes_mask = None, takes_tree_mask(other)
    exact = make_engine("transformers", backbone, dtype="float32")
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    print(
        f"{arguments.backbone}, {arguments.dtype}, {arguments.threads} thread(s), "
        f"{'with' if arguments.adapter else 'without'} adapter, {N_CANDIDATES} candidates"
    )
    print(
        f"{'prompt':>7}{'title':>6}  {'contestant':12}{'users/s':>9}{'best':>10}{'CPU':>10}"
        f"{'ratio':>8}{'tokens':>8}{'share':>7}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        adapter = None
        if arguments.adapter:
            from peft import PeftModel

            adapter = Path(scratch)
            random_adapter(backbone, adapter)
            PeftModel.from_pretrained(model, adapter)  # replaces the layers inside `model`
        for n_prompt, n_title in arguments.shape or SHAPES:
            users = users_of(arguments.users, n_prompt, n_title, vocabulary)
            prompts, branches = [p for p, _ in users], [b for _, b in users]
            contestants: dict[str, tuple[Callable[[], object], int]] = {
                "engine": (
                    lambda p=prompts, b=branches: engine.branch_log_probs(p, b, adapter=adapter),
                    len(users),
                ),
                "own": (
                    lambda p=prompts, b=branches: own_forward.branch_log_probs(
                        p, b, adapter=adapter
                    ),
                    len(users),
                ),
                "separate": (
                    lambda u=users: separate(model, body, u[:1], arguments.batch_tokens),
                    1,
                ),
            }
            if not arguments.no_generate:
                contestants["generate"] = (
                    lambda p=prompts, t=n_title: engine.generate(
                        p, max_new_tokens=[5 * t] * len(p), stop=[], adapter=adapter
                    ),
                    len(users),
                )
            spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
            for _ in range(arguments.rounds):
                for name, (work, n) in contestants.items():
                    spent[name].append(timed(work, n))
            least = min(cpu for _, cpu in spent["engine"])
            tokens = N_CANDIDATES * (n_prompt + n_title) / (n_prompt + N_CANDIDATES * n_title)
            for name, times in spent.items():
                wall, cpu = (min(column) for column in zip(*times, strict=True))
                line = f"{n_prompt:>7}{n_title:>6}  {name:12}{1 / wall:>9.2f}{wall * 1e3:>7.0f} ms"
                line += f"{cpu * 1e3:>7.0f} ms{cpu / least:>8.2f}"
                if name == "separate":
                    line += f"{tokens:>8.2f}{cpu / least / tokens:>7.0%}"
                print(line, flush=True)
            truth = exact.branch_log_probs(prompts[:1], branches[:1], adapter=adapter)[0]
            errors = [
                np.sqrt(np.mean((found - truth) ** 2))
                for found in (
                    engine.branch_log_probs(prompts[:1], branches[:1], adapter=adapter)[0],
                    separate(model, body, users[:1], arguments.batch_tokens)[0],
                )
            ]
            print(
                f"{'':15}error of a sum of {n_title} against float32 (root mean square, nats): "
                f"engine {errors[0]:.2g}, separate {errors[1]:.2g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
