"""What travels between the protocol, the methods and the evaluator.

The split of roles is the leak guard of the harness: a method's ``fit`` sees :class:`TrainView`, its
``score`` sees :class:`Requests`, and only the evaluator opens :class:`Labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench.data.domain import Items, Sequences

__all__ = ["DomainView", "Labels", "ProtocolOptions", "Requests", "Split", "TrainView"]

Split = Literal["valid", "test"]


class ProtocolOptions(BaseModel):
    """Everything about the protocol that a user may choose; all of it is part of ``task_hash``.

    Attributes:
        negatives: how the negatives are drawn; ``full`` ranks the whole catalogue, ``imported``
            takes candidate sets from a file.
        n_negatives: negatives per user, >= 1; ignored by ``full`` and ``imported``.
        candidate_seed: seed of the *test* candidates; validation candidates always use seed 0.
        train_on: ``train`` or ``train+valid`` (then the validation item is trained on as well).
        keep_leak: whether the cross-domain leak guard is switched off.
        candidates_file: SHA-256 of the imported candidate file, for ``imported`` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    negatives: Literal["uniform", "popularity", "full", "imported"] = "uniform"
    n_negatives: int = Field(default=29, ge=1)
    candidate_seed: int = Field(default=0, ge=0, lt=2**63)
    train_on: Literal["train", "train+valid"] = "train"
    keep_leak: bool = False
    candidates_file: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Ranking requests without labels: for each row, order the candidates given the history.

    Attributes:
        domain: name of the domain the indices belong to.
        users: int32, shape ``(n,)``, canonical user indices.
        history: CSR of n rows, item indices, oldest first; never empty for 5-core data.
        candidates: int32, shape ``(n, c)``, item indices in an order that says nothing of the label.
            For full ranking a read-only broadcast of all items (no memory).
        timestamps: float64, one for each item of ``history``, in the data's own unit, usually seconds
            since 1970; None for requests that were made without times.
    """

    domain: str
    users: NDArray[np.int32]
    history: Sequences
    candidates: NDArray[np.int32]
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.integer]) -> Requests:
        """The requests at ``rows``, in that order."""
        events = Sequences(
            self.history.offsets, np.arange(len(self.history.items), dtype=np.int32)
        ).take(rows)
        times = None if self.timestamps is None else self.timestamps[events.items]
        history = Sequences(events.offsets, self.history.items[events.items])
        return Requests(self.domain, self.users[rows], history, self.candidates[rows], times)

    def chunks(self, size: int) -> Iterator[Requests]:
        """Consecutive slices of at most ``size`` rows."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The answers to :class:`Requests`; opened by the evaluator alone.

    Attributes:
        position: int32, shape ``(n,)``, column of the positive in ``candidates``.
        excluded: bool, shape ``(n, c)``, candidates that do not compete (history items in full
            ranking), or None when all compete.
    """

    position: NDArray[np.int32]
    excluded: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True, slots=True, eq=False)
class DomainView:
    """What training may see of one domain: copies in memory, of which none leads to a held-out event.

    Attributes:
        name: domain name.
        items: the vocabulary (all items of the domain, also those never trained on), with the
            columns that the method declared.
        users: int32, shape ``(n,)``, canonical user index of each training sequence.
        sequences: guarded training sequences, one row per user; rows may be empty.
        validation: unlabelled validation requests, histories guarded like the training sequences.
        training_hash: SHA-256 of the items and the guarded training sequences. It does not depend on
            which domain is the target, so that what is trained on it can be shared.
        timestamps: float64, one for each item of ``sequences``, in the data's own unit, usually seconds
            since 1970; None in a view that was made without times. The order of events is part of a
            task's identity, their times are not.
    """

    name: str
    items: Items
    users: NDArray[np.int32]
    sequences: Sequences
    validation: Requests
    training_hash: str
    timestamps: NDArray[np.float64] | None = None

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True, eq=False)
class TrainView:
    """All that ``Method.fit`` receives. No held-out test event and no test request is reachable.

    Attributes:
        target: the target domain.
        sources: the source domains, in the order the user gave; empty for single-domain methods.
        test_requests: unlabelled test requests, only for methods whose capabilities say
            ``transductive``; None otherwise.
    """

    target: DomainView
    sources: tuple[DomainView, ...] = ()
    test_requests: Requests | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
