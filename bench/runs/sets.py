"""The request sets of a run: the task's own candidates and what else the same fit is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.protocol import RequestSet, Task
from bench.runs.spec import RunSpec

__all__ = ["SetRequest", "wanted_sets"]


@dataclass(frozen=True, slots=True)
class SetRequest:
    """One request set besides the task's own.

    Attributes:
        kind: ``candidates`` (other test-candidate seed) or ``full`` (the whole catalogue).
        candidate_seed: the seed, for ``candidates``.
    """

    kind: Literal["candidates", "full"]
    candidate_seed: int | None = None

    @property
    def label(self) -> str:
        """One line for people."""
        return "full ranking" if self.kind == "full" else f"candidate seed {self.candidate_seed}"

    def build(self, task: Task, users: NDArray[np.int32]) -> RequestSet:
        """The requests and labels of ``users``."""
        if self.kind == "full":
            return task.test(users, full=True)
        return task.test(users, candidate_seed=self.candidate_seed)


def wanted_sets(spec: RunSpec) -> tuple[SetRequest, ...]:
    """The further request sets of a specification; what the task itself asks is left out."""
    own = spec.protocol
    sets: list[SetRequest] = []
    if own.negatives in ("uniform", "popularity"):
        sets += [
            SetRequest("candidates", seed)
            for seed in spec.extra_candidate_seeds
            if seed != own.candidate_seed
        ]
    if spec.full_ranking and own.negatives != "full":
        sets.append(SetRequest("full"))
    return tuple(sets)
