"""Methods that serve adapters of the real store; their training is a count of next items."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.io import read_json, write_json
from bench.llm.adapters import AdapterSpec, AdapterStore, MixturePart, adapters_of
from bench.methods import Capabilities, Family, Job, Method, MethodConfig, RunDefaults, Scores


class Config(MethodConfig):
    """Pause is spent in every training; log receives one line per training and per scored chunk.

    Attributes:
        pause: seconds.
        log: file, "" for none.
        fault: where to be interrupted: "", ``train`` (after the first domain) or ``score``.
        estimate: whether the plan holds estimates.
    """

    pause: float = 0.0
    log: str = ""
    fault: str = ""
    estimate: bool = True

    profiles: ClassVar = {"cpu": {}, "paper": {}}


class Adapted(Method):
    """One adapter on target and sources."""

    name = "adapted"
    version = "1"
    family = Family.LLM
    Config = Config
    score_rows = 8

    @classmethod
    def capabilities(cls, config):
        return Capabilities(needs_sources=cls.name != "adapted-alone", trainable=True)

    @classmethod
    def adapter_store(cls, root=None):
        return AdapterStore() if root is None else AdapterStore(root)

    @classmethod
    def run_defaults(cls, profile):
        return RunDefaults(limit_users=20, dtype="bfloat16") if profile == "cpu" else RunDefaults()

    def _note(self, text):
        if self.config.log:
            with Path(self.config.log).open("a") as stream:
                stream.write(text + "\n")

    def recipe(self, parts, seed, init_seed, dtype):
        return AdapterSpec(
            backbone="/some/where/toy",
            backbone_hash="b" * 64,
            mixture=tuple(
                MixturePart(domain=name, training_hash=digest, n_examples=3)
                for name, digest in parts
            ),
            objective="next",
            template_hash="t" * 64,
            lora={"r": 1},
            training={},
            init_seed=init_seed,
            order_seed=seed,
            trainer_version=1,
            dtype=dtype,
        )

    def plan(self, spec):
        names = (spec.target, *spec.sources)
        wanted = self.recipe(
            [(n, spec.training_hashes[n]) for n in names], spec.seed, spec.init_seed, spec.dtype
        )
        known = self.config.estimate
        return [
            Job(
                "adapter",
                f"train on {wanted.summary}",
                wanted.adapter_id,
                seconds=90.0 if known else None,
                tokens=1_234_567 if known else None,
                memory_mb=2_048 if known else None,
            ),
            Job("score", "score", seconds=0.5 * spec.n_users if known else None),
        ]

    def fit(self, view, context):
        views = {v.name: v for v in (view.target, *view.sources)}
        recipe = self.recipe(
            [(v.name, v.training_hash) for v in views.values()],
            context.seed,
            context.init_seed,
            context.dtype,
        )
        own = view.target

        def train(out: Path, checkpoints: Path):
            done = checkpoints / "done.json"
            counts = dict(read_json(done)) if done.exists() else {}
            for name in recipe.domains:
                if name in counts:
                    continue
                time.sleep(self.config.pause)
                counts[name] = _successors(views[name]).tolist()
                write_json(done, counts)
                self._note(f"train {name}")
                if self.config.fault == "train":
                    raise KeyboardInterrupt
            factors = {name: np.array(c, dtype=np.float32) for name, c in counts.items()}
            draw = np.random.default_rng(context.seed).random(10_000, dtype=np.float32)
            save_file({**factors, "draw": draw}, out / "adapter_model.safetensors")
            (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
            return {"tokens": 1000, "loss": [2.0, 1.0]}

        found = adapters_of(context).obtain(recipe, train, progress=context.progress)
        self._read(found.folder / "adapter_model.safetensors", own.name)
        context.validate(self)

    def _read(self, file: Path, target: str):
        tensors = load_file(file)
        counts = tensors[target]
        self.weights = counts + 0.01 * tensors["draw"][: len(counts)]
        self.target = target
        self.file = file

    def score(self, requests, context):
        self._note(f"score {len(requests)}")
        if self.config.fault == "score" and (context.scratch / "scored").exists():
            raise KeyboardInterrupt
        (context.scratch / "scored").touch()
        newest = requests.history.items[requests.history.offsets[1:] - 1]
        values = self.weights[newest[:, None], requests.candidates]
        return Scores(values.astype(np.float32), None, {"tokens": 10 * len(requests)})

    def save(self, folder):
        write_json(folder / "target.json", self.target)
        (folder / "copy.safetensors").write_bytes(self.file.read_bytes())

    def load(self, folder):
        self._note("load")
        self._read(folder / "copy.safetensors", read_json(folder / "target.json"))


class Alone(Adapted):
    """One adapter on the target alone."""

    name = "adapted-alone"


def _successors(view):
    """How often item j follows item i, float32 (n_items, n_items)."""
    counts = np.zeros((view.n_items, view.n_items), dtype=np.float32)
    for row in range(len(view.sequences.offsets) - 1):
        items = view.sequences[row]
        np.add.at(counts, (items[:-1], items[1:]), 1.0)
    return counts
