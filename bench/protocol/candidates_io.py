"""Candidate sets of very many users, straight to disk in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.io import require_free_space
from bench.partial import atomic_file
from bench.process import available_threads
from bench.protocol.candidates import Population, draw_candidates, eligible_groups
from bench.protocol.keys import id_hashes, salt64, stream_keys
from bench.protocol.types import Split
from bench.protocol.workers import map_in_order

__all__ = ["BLOCK_USERS", "UserBlock", "position_path", "write_candidates"]

BLOCK_USERS = 16384
"""Users per block: the drawn block of 2 MB is still in the cache when it is written."""

_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True, eq=False)
class UserBlock:
    """Some users, with all that drawing needs.

    Attributes:
        ids: n raw user ids.
        history: n rows of items: whole histories, held-out items included.
        positives: int32, shape ``(n,)``, the held-out item of each user.
    """

    ids: StringColumn
    history: Sequences
    positives: NDArray[np.int32]


def position_path(path: Path) -> Path:
    """Where :func:`write_candidates` puts the columns of the positives: ``NAME.position.npy``."""
    return path.with_suffix(".position.npy")


def write_candidates(
    path: Path,
    blocks: Iterable[UserBlock],
    pop: Population,
    *,
    n_users: int,
    domain: str,
    split: Split = "test",
    seed: int = 0,
    n_negatives: int = 29,
    threads: int | None = None,
) -> None:
    """Write ``candidates`` and ``position`` of many users as two ``.npy`` files.

    The files hold int32 ``(n_users, n_negatives + 1)`` and int32 ``(n_users,)``, equal to what a task
    draws. Memory is that of ``threads + 2`` blocks, whatever ``n_users``; both files appear complete
    or not at all.

    Args:
        path: the candidate file, ending in ``.npy``; the other is :func:`position_path`.
        blocks: the users in order, ``n_users`` in all.
        pop: what negatives are drawn from.
        n_users: number of users, needed for the header and the check of disk space.
        domain: domain name, part of the key.
        split: part of the key.
        seed: candidate seed, part of the key.
        n_negatives: negatives per user.
        threads: threads that draw; None for one per usable core. The files do not depend on it. They
            share Python's lock between array operations: if other programs keep the cores busy,
            one thread can be faster.

    Raises:
        ProtocolError: a wrong file name, number of threads or number of users, or a user with too few eligible items.
        BenchError: too little disk space.
    """
    if path.suffix != ".npy":
        raise ProtocolError(f"{path}: candidates are written as NumPy arrays; expected `.npy`.")
    threads = available_threads() if threads is None else threads
    if threads < 1:
        raise ProtocolError(f"threads is {threads}; expected 1 or more, or None for all cores.")
    require_free_space(path.parent, 4 * n_users * (n_negatives + 2) + 2 * _HEADER_BYTES)
    salt = salt64("candidates", seed, split, domain)

    def draw(block: UserBlock) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        history = Sequences(block.history.offsets, np.take(pop.group, block.history.items))
        _require_eligible(pop, history, block.ids, n_negatives, domain)
        keys = stream_keys(id_hashes(block.ids), salt)
        return draw_candidates(pop, keys, history, block.positives, n_negatives)

    n_written = 0
    with ExitStack() as stack:
        candidate_file = stack.enter_context(_npy(path, (n_users, n_negatives + 1)))
        position_file = stack.enter_context(_npy(position_path(path), (n_users,)))
        drawn = stack.enter_context(closing(map_in_order(draw, blocks, threads)))
        for candidates, position in drawn:
            candidate_file.write(candidates.astype("<i4", copy=False).data)
            position_file.write(position.astype("<i4", copy=False).data)
            n_written += len(position)
        if n_written != n_users:
            raise ProtocolError(
                f"{path}: {n_users} users announced, {n_written} came. Pass the number of evaluated "
                "users (those with at least 3 events)."
            )


def _require_eligible(
    pop: Population, history: Sequences, ids: StringColumn, n_negatives: int, domain: str
) -> None:
    drawable = int(pop.drawable.sum())
    if drawable - int(history.lengths.max(initial=0)) >= n_negatives:
        return
    eligible = eligible_groups(pop, history)
    short = np.flatnonzero(eligible < n_negatives)
    if len(short):
        row = int(short[0])
        raise ProtocolError(
            f"{domain}: user {ids[row]!r} has {int(eligible[row])} eligible items of {drawable} distinct "
            f"titles, {n_negatives} negatives asked for. Leave such users out, or ask for fewer."
        )


@contextmanager
def _npy(path: Path, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A little-endian int32 ``.npy`` file open after its header; renamed into place at the end.

    Appending beats a memory map here: pages of a map stay in the resident set of the process.
    """
    with atomic_file(path) as stream:
        header = {"descr": "<i4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield stream
