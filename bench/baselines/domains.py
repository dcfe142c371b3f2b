"""Several domains as one: a union vocabulary, its training sequences, and batches over domains.

Domains are ordered by name, whichever of them is the target, so that all targets of a study group
see the same union and what is trained on it can be shared. Users and items are never matched across
domains: equal raw ids of two domains are two users, two items. Only training sequences after the leak
guard enter; nothing held out does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.protocol.types import DomainView, TrainView

__all__ = ["Mixing", "UnionVocabulary", "domain_batches", "union_domains", "union_sequences"]

Mixing = Literal["proportional", "balanced"]


@dataclass(frozen=True, slots=True, eq=False)
class UnionVocabulary:
    """The items of several domains in one id space; domain k owns ``[offsets[k], offsets[k + 1])``.

    Attributes:
        names: the domains, ascending.
        offsets: int64, shape ``(len(names) + 1,)``, starts at 0.
    """

    names: tuple[str, ...]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, domains: Sequence[DomainView]) -> UnionVocabulary:
        """The union of domains, in the order given (:func:`union_domains` gives the usual one)."""
        offsets = np.zeros(len(domains) + 1, dtype=np.int64)
        np.cumsum([domain.n_items for domain in domains], out=offsets[1:])
        return cls(tuple(domain.name for domain in domains), offsets)

    @property
    def n_items(self) -> int:
        """Items of all domains together."""
        return int(self.offsets[-1])

    def span(self, domain: str) -> slice:
        """The union ids of a domain's items.

        Raises:
            MethodError: the domain is not part of the union.
        """
        if domain not in self.names:
            raise MethodError(
                f"domain {domain!r} is not in the union of {', '.join(self.names) or 'no domains'}. "
                "Score requests of the domains that the model was fitted on."
            )
        k = self.names.index(domain)
        return slice(int(self.offsets[k]), int(self.offsets[k + 1]))


def union_domains(
    view: TrainView, *, include_target: bool = True, include_sources: bool = True
) -> tuple[DomainView, ...]:
    """The chosen domains of a view, ascending by name.

    Raises:
        MethodError: none is chosen (a view without sources), or a domain occurs twice.
    """
    chosen = (view.target,) * include_target + view.sources * include_sources
    names = [domain.name for domain in chosen]
    if not chosen:
        raise MethodError(
            f"target {view.target.name!r} has no source domain. Name some with --sources."
        )
    if len(set(names)) < len(names):
        raise MethodError(
            f"a domain occurs twice among target and sources: {', '.join(names)}. "
            "Name every domain once (--sources)."
        )
    return tuple(sorted(chosen, key=lambda domain: domain.name))


def union_sequences(
    view: TrainView, *, include_target: bool, include_sources: bool
) -> tuple[Sequences, NDArray[np.int32]]:
    """Training sequences of several domains over the union vocabulary of the same domains.

    Args:
        view: what ``fit`` received.
        include_target: whether the target's training sequences take part.
        include_sources: whether the sources' do.

    Returns:
        The sequences, items as 0-based union ids, domain after domain in the order of
        ``UnionVocabulary.of(union_domains(...)).names``, users in canonical order (rows may be
        empty); and the domain of every row, int32, shape ``(n_rows,)``, a position in ``names``.

    Raises:
        MethodError: as :func:`union_domains`.
    """
    domains = union_domains(view, include_target=include_target, include_sources=include_sources)
    starts = UnionVocabulary.of(domains).offsets
    lengths = np.concatenate([domain.sequences.lengths for domain in domains])
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    items = np.concatenate(
        [domain.sequences.items + np.int32(starts[k]) for k, domain in enumerate(domains)]
    )
    counts = [len(domain.sequences) for domain in domains]
    domain_of_row = np.repeat(np.arange(len(domains), dtype=np.int32), counts)
    return Sequences(offsets, items.astype(np.int32, copy=False)), domain_of_row


def domain_batches(
    domain_of_row: NDArray[np.integer],
    batch_size: int,
    *,
    mixing: Mixing,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Cut the rows of several domains into the random batches of one epoch.

    Args:
        domain_of_row: shape ``(n,)``, domain of each row, any integers.
        batch_size: rows per batch, >= 1; the last batch may hold fewer.
        mixing: ``proportional`` = every row once, in random order. ``balanced`` = as many rows in
            all, and the domains' shares of any batch differ by at most one row: of a large domain
            a random part is taken, a small one is gone through several times, each time in another
            order.
        rng: local generator of the epoch.

    Returns:
        Row numbers (int64) of each batch.
    """
    n = len(domain_of_row)
    if mixing == "proportional":
        order = rng.permutation(n)
    else:
        order = _balanced_order(np.asarray(domain_of_row), rng)
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


def _balanced_order(
    domain_of_row: NDArray[np.integer], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Row numbers that take one row of every domain in turn; as many as there are rows."""
    n = len(domain_of_row)
    domains = np.unique(domain_of_row)
    if not len(domains):
        return np.zeros(0, dtype=np.int64)
    n_turns = -(-n // len(domains))
    columns = []
    for domain in domains:
        rows = np.flatnonzero(domain_of_row == domain)
        passes = [rng.permutation(rows) for _ in range(-(-n_turns // len(rows)))]
        columns.append(np.concatenate(passes)[:n_turns])
    turns = np.stack(columns, axis=1)
    # If the rows do not divide evenly, which domains get the last few is random.
    turns = turns[:, rng.permutation(len(domains))]
    return turns.reshape(-1)[:n].astype(np.int64)
