"""What a run remembers about its attempts: times, validations, the finished fit; survives a kill.

The journal knows no task and no labels, so that the context of a method may refer to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.methods import AdapterUse
from bench.runs.work import Work
from bench.stamp import utc_now
from bench.validation import ValidationCall

__all__ = ["Journal"]


@dataclass(slots=True, eq=False)
class Journal:
    """Times of the phases over all attempts, and what earlier attempts left behind.

    A killed attempt counts up to its last save: one is made at every validation, after every adapter,
    and with every saved chunk of scores. Seconds are the run's own: making adapters, or waiting for
    another process that makes them, is not in them, for adapters are shared and have their own cost.

    Attributes:
        work: where it is saved.
        attempts: number of this attempt, 1-based.
        earlier_seconds: wall seconds of earlier attempts.
        earlier_cpu: CPU seconds of earlier attempts.
        started: time at which the first attempt began, UTC.
        fit: seconds, CPU seconds and training report of the completed fit, or None.
        validations: one entry per validation of all attempts.
        adapters: every adapter used, by its id, with its cost.
        wall: wall seconds by phase, all attempts; a phase that is still open is not in it.
        cpu: CPU seconds by phase, likewise.
    """

    work: Work
    attempts: int
    earlier_seconds: float
    earlier_cpu: float
    started: str
    fit: dict[str, Any] | None
    validations: list[dict[str, float]]
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    _open: dict[str, tuple[float, float]] = field(default_factory=dict)
    _wall_start: float = field(default_factory=time.perf_counter)
    _cpu_start: float = field(default_factory=time.process_time)
    _shared: float = 0.0
    _shared_cpu: float = 0.0

    @classmethod
    def open(cls, work: Work, *, anew: bool) -> Journal:
        """Open the work folder (emptied when ``anew``) and go on from its saved state."""
        state = work.open(anew=anew)
        journal = cls(
            work,
            attempts=int(state.get("attempts", 0)) + 1,
            earlier_seconds=float(state.get("seconds", 0.0)),
            earlier_cpu=float(state.get("cpu_seconds", 0.0)),
            started=str(state.get("started", utc_now())),
            fit=state.get("fit"),
            validations=list(state.get("validations", [])),
            wall=dict(state.get("wall", {})),
            cpu=dict(state.get("cpu", {})),
            adapters=dict(state.get("adapters", {})),
        )
        journal.save()
        return journal

    @property
    def seconds(self) -> float:
        """Wall seconds of this attempt so far."""
        return time.perf_counter() - self._wall_start - self._shared

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process since the attempt began."""
        return time.process_time() - self._cpu_start - self._shared_cpu

    def save(self) -> None:
        """Write the state to disk, with open phases as far as they are."""
        wall, cpu = dict(self.wall), dict(self.cpu)
        for name in self._open:
            self._add(name, wall, cpu)
        self.work.save_state(
            {
                "attempts": self.attempts,
                "seconds": self.earlier_seconds + self.seconds,
                "cpu_seconds": self.earlier_cpu + self.cpu_seconds,
                "started": self.started,
                "fit": self.fit,
                "validations": self.validations,
                "wall": wall,
                "cpu": cpu,
                "adapters": self.adapters,
            }
        )

    def _add(self, name: str, wall: dict[str, float], cpu: dict[str, float]) -> None:
        began, cpu_began = self._open[name]
        wall[name] = wall.get(name, 0.0) + time.perf_counter() - began
        cpu[name] = cpu.get(name, 0.0) + time.process_time() - cpu_began

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the phase ``name``."""
        self._open[name] = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._add(name, self.wall, self.cpu)
            del self._open[name]

    def note_validation(self, call: ValidationCall) -> None:
        """Record a validation at once, so that the curve survives a kill."""
        self.validations.append(
            {
                "at_seconds": round(self.earlier_seconds + self.seconds, 3),
                "seconds": round(call.seconds, 3),
                "ndcg@1": call.ndcg1,
                "ndcg@5": call.ndcg5,
            }
        )
        self.save()

    def note_adapters(
        self, used: tuple[AdapterUse, ...], seconds: float, cpu_seconds: float
    ) -> None:
        """Record adapters that the run asked for, and take what they cost out of its own seconds."""
        for use in used:
            known = self.adapters.get(use.adapter_id, {})
            now = use.trained_now or known.get("trained_now", False)
            self.adapters[use.adapter_id] = {**asdict(use), "trained_now": now}
        self.leave_out(seconds, cpu_seconds)

    def leave_out(self, seconds: float, cpu_seconds: float) -> None:
        """Take what is no cost of the method out of the run's own seconds."""
        self._shared += seconds
        self._shared_cpu += cpu_seconds
        for name in self._open:
            self.wall[name] = self.wall.get(name, 0.0) - seconds
            self.cpu[name] = self.cpu.get(name, 0.0) - cpu_seconds
        self.save()

    def finish_fit(self, training: Mapping[str, Any] | None) -> None:
        """Record that the fit is complete."""
        self.fit = {
            "seconds": self.wall.get("fit", 0.0),
            "cpu_seconds": self.cpu.get("fit", 0.0),
            "training": training,
        }
        self.save()

    def adapters_record(self) -> list[dict[str, Any]]:
        """Every adapter used, in the order of its first use."""
        return [dict(use) for use in self.adapters.values()]

    def seconds_record(self) -> dict[str, float]:
        """Wall seconds of all attempts; ``fit`` includes the validations made while fitting."""
        fit = self.fit or {}
        own = self.earlier_seconds + self.seconds
        adapters = math.fsum(float(use["seconds"]) for use in self.adapters.values())
        return {
            "fit": round(float(fit.get("seconds", 0.0)), 3),
            "score": round(self.wall.get("score", 0.0), 3),
            "score_sets": round(self.wall.get("score_sets", 0.0), 3),
            "validation": round(sum(v["seconds"] for v in self.validations), 3),
            "total": round(own, 3),
            "earlier_attempts": round(self.earlier_seconds, 3),
            "adapters": round(adapters, 3),
            "total_with_adapters": round(own + adapters, 3),
        }

    def cpu_record(self) -> dict[str, float]:
        """CPU seconds of all attempts for the manifest."""
        fit = self.fit or {}
        own = self.earlier_cpu + self.cpu_seconds
        adapters = math.fsum(float(use["cpu_seconds"]) for use in self.adapters.values())
        return {
            "fit": round(float(fit.get("cpu_seconds", 0.0)), 3),
            "score": round(self.cpu.get("score", 0.0), 3),
            "total": round(own, 3),
            "adapters": round(adapters, 3),
            "total_with_adapters": round(own + adapters, 3),
        }
