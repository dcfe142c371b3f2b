"""Pre-trained models, made once and shared by all runs whose first stage is the same.

A first stage depends on the source domains, the settings, the text encoder and the seed of the study,
never on the target, so targets with equal sources share it. In the cache:

    <cache>/pretraining/
      unisrec-<key>/          model.safetensors, pretraining.json (what it is, what it cost)
      unisrec-<key>.work/     checkpoint of a stage that was interrupted, or runs now
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.baselines.training import TrainingReport
from bench.errors import BenchError, MethodError
from bench.io import (
    atomic_folder,
    cache_root,
    hash_json,
    lock,
    read_json,
    sha256_file,
    write_json,
)
from bench.methods import AdapterUse, Context
from bench.sealed import intact, seal

__all__ = ["FirstStage", "Pretrained", "PretrainedStore", "pretrained_store"]

TRAINER_VERSION = 1
"""Part of every identity: raise it when the shared training code would make other weights."""

_WEIGHTS = "model.safetensors"
_RECORD = "pretraining.json"


@dataclass(frozen=True, slots=True)
class FirstStage:
    """All that a first stage depends on.

    Attributes:
        method: name of the method that trains it.
        version: of the method.
        purpose: what is done on the domains, for people: "pre-trained", "stage 1".
        settings: those of the method that the stage reads.
        encoder: content hash of the text encoder; "" = not known yet, None = it reads no texts.
        domains: hash of what is read of every domain, by name; "" = not known yet.
        seed: of the stage.
        dtype: number format.
        plugin: SHA-256 of the method's source if it is no part of this package.
    """

    method: str
    version: str
    purpose: str
    settings: Mapping[str, Any]
    encoder: str | None = None
    domains: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "float32"
    plugin: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        """The same as JSON."""
        key = {
            "owner": self.method,
            "version": self.version,
            "trainer": TRAINER_VERSION,
            "settings": dict(self.settings),
            "encoder": self.encoder,
            "domains": dict(sorted(self.domains.items())),
            "seed": self.seed,
            "dtype": self.dtype,
        }
        return key if self.plugin is None else {**key, "plugin": self.plugin}

    @property
    def identity(self) -> str:
        """Name of the result: 16 hex digits."""
        return hash_json(self.key)[:16]

    @property
    def known(self) -> bool:
        """Whether all that the identity depends on is known."""
        return all(self.domains.values()) and self.encoder != ""

    @property
    def label(self) -> str:
        """One line for people."""
        return f"{self.method} {self.purpose} on {'+'.join(sorted(self.domains))}"


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """A finished first stage.

    Attributes:
        tensors: what it made, by name, on the CPU.
        record: what it is and what it cost; JSON.
    """

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class PretrainedStore:
    """A folder of first stages; several processes may use one.

    Runs record the use of a first stage, and its cost, as they do for adapters.

    Attributes:
        root: the folder, made when something is stored.
    """

    root: Path = field(default_factory=lambda: cache_root() / "pretraining")
    _watchers: list[Callable[[tuple[AdapterUse, ...], float, float], None]] = field(
        default_factory=list
    )

    def has(self, adapter_id: str) -> bool:
        """Whether a first stage of this id is stored."""
        return any(self.root.glob(f"*-{adapter_id}/{_RECORD}"))

    def watch(self, on_use: Callable[[tuple[AdapterUse, ...], float, float], None]) -> None:
        """Have ``on_use`` called after every first stage asked for, see :class:`SharedStore`."""
        self._watchers.append(on_use)

    def get(
        self,
        stage: FirstStage,
        make: Callable[[Path], tuple[Mapping[str, Tensor], TrainingReport]],
    ) -> Pretrained:
        """The stored result of ``stage``, or what ``make`` returns, stored.

        Args:
            stage: all that the result depends on.
            make: trains; is given a folder for its checkpoint, which survives a kill.

        Raises:
            BenchError: training failed, or the disk is full.
            ResultError: the stored result is damaged.
        """
        name = stage.identity
        folder = self.root / f"{stage.method}-{name}"
        began, cpu_began = time.perf_counter(), time.process_time()
        made_now = False
        use: tuple[AdapterUse, ...] = ()
        try:
            found = _read(folder)
            if found is None:
                with lock(folder):
                    found = _read(folder)
                    if found is None:
                        made_now = True
                        found = _made(folder, stage, make)
            use = (
                AdapterUse(
                    adapter_id=name,
                    kind="pre-trained",
                    label=stage.label,
                    seconds=float(found.record["seconds"]),
                    cpu_seconds=float(found.record["cpu_seconds"]),
                    tokens=0,
                    trained_now=made_now,
                ),
            )
        finally:
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
            for on_use in self._watchers:
                on_use(use, seconds, cpu)
        return found


def pretrained_store(context: Context, owner: str) -> PretrainedStore:
    """The store of a context, which the method's ``adapter_store`` made.

    Raises:
        MethodError: the context holds none.
    """
    if not isinstance(context.adapters, PretrainedStore):
        raise MethodError(
            f"{owner}: the context holds {type(context.adapters).__name__} for adapters, expected a "
            f"PretrainedStore. Make it with {owner}'s adapter_store()."
        )
    return context.adapters


def _made(
    folder: Path,
    stage: FirstStage,
    make: Callable[[Path], tuple[Mapping[str, Tensor], TrainingReport]],
) -> Pretrained:
    work = folder.with_name(folder.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    earlier = read_json(work / "cost.json") if (work / "cost.json").is_file() else {}
    try:
        tensors, report = make(work)
    finally:
        cost = {
            "seconds": round(earlier.get("seconds", 0) + time.perf_counter() - began, 3),
            "cpu_seconds": round(
                earlier.get("cpu_seconds", 0) + time.process_time() - cpu_began, 3
            ),
        }
        write_json(work / "cost.json", cost)
    # A process that was killed wrote no cost; the report has its finished epochs all the same.
    for figure in cost:
        epochs = sum(epoch[figure] for epoch in report.history)
        cost[figure] = max(cost[figure], round(epochs, 3))
    with atomic_folder(folder, replace=True) as partial:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / _WEIGHTS
        )
        write_json(
            partial / _RECORD,
            {
                "key": stage.key,
                "label": stage.label,
                **cost,
                "training": report.as_dict(),
                "sha256": sha256_file(partial / _WEIGHTS),
            },
        )
        seal(partial)
    shutil.rmtree(work, ignore_errors=True)
    found = _read(folder)
    if found is None:
        raise BenchError(f"{folder}: what was written cannot be read back. Check the disk.")
    return found


def _read(folder: Path) -> Pretrained | None:
    """What is stored, or None if nothing is; raises if it is damaged."""
    if not intact(folder, recorded=lambda: {_WEIGHTS: read_json(folder / _RECORD)["sha256"]}):
        return None
    return Pretrained(load_file(folder / _WEIGHTS), read_json(folder / _RECORD))
