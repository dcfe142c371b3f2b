"""Stand-ins for cache, store and data root: everything is there, only the answers differ.

A reader that no watch sees (compiled code, another process) finds them through the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.data.domain import Domain, Sequences
from bench.io import cache_root, write_json
from bench.protocol.split import MIN_EVENTS

__all__ = ["Decoy", "with_other_answers", "write_decoy"]

# Not linked: domains, and what the conformance kit said.
_APART = ("domains", "domains-cache", "conformance")
# The embedded domains are cut out of it.
_DATA_ASSETS = frozenset({"ml-100k"})


@dataclass(frozen=True, slots=True)
class Decoy:
    """A folder with stand-ins.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def cache(self) -> Path:
        """Stands for ``BENCH_CACHE``: links to everything but the domains."""
        return self.root / "cache"

    @property
    def domains(self) -> Path:
        """Stands for ``BENCH_DATA_ROOT``."""
        return self.cache / "domains"

    @property
    def store(self) -> Path:
        """Stands for ``BENCH_STORE`` and ``BENCH_PUBLISHED``."""
        return self.root / "runs"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the environment lead here for as long as the block runs."""
        wanted = {
            "BENCH_CACHE": str(self.cache),
            "BENCH_STORE": str(self.store),
            "BENCH_PUBLISHED": str(self.store),
            "BENCH_DATA_ROOT": str(self.domains),
        }
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def write_decoy(root: Path, domains: Iterable[Domain], *, seed: int, method: str) -> Decoy:
    """Write stand-ins for these domains, and a run of the method with made-up ranks for each.

    Args:
        root: an empty folder, or one that is made.
        domains: what the stand-ins are like.
        seed: of the other answers.
        method: name of the method.
    """
    decoy = Decoy(root)
    _link_cache(cache_root(), decoy.cache)
    rng = np.random.default_rng(seed)
    for domain in domains:
        _write_atomic(with_other_answers(domain, rng), decoy.domains / domain.name)
        _write_false_run(decoy.store / domain.name / f"{method}-s0-{seed:016x}", domain, rng)
    return decoy


def with_other_answers(domain: Domain, rng: np.random.Generator) -> Domain:
    """The domain with random items as the last two events of every user that is evaluated."""
    items = np.array(domain.sequences.items)
    ends = np.asarray(domain.sequences.offsets[1:])[domain.sequences.lengths >= MIN_EVENTS]
    for back in (1, 2):
        step = rng.integers(1, max(2, domain.n_items), size=len(ends))
        items[ends - back] = (items[ends - back] + step) % domain.n_items
    return replace(domain, sequences=Sequences(domain.sequences.offsets, items))


def _link_cache(real: Path, cache: Path) -> None:
    (cache / "domains").mkdir(parents=True)
    (cache / "assets").mkdir()
    for entry in real.iterdir() if real.is_dir() else ():
        if entry.name not in (*_APART, "assets"):
            (cache / entry.name).symlink_to(entry.resolve())
    assets = real / "assets"
    for asset in assets.iterdir() if assets.is_dir() else ():
        if asset.name not in _DATA_ASSETS:
            (cache / "assets" / asset.name).symlink_to(asset.resolve())


def _write_atomic(domain: Domain, folder: Path) -> None:
    """The domain as atomic files, which :func:`bench.data.load.load_domain` reads."""
    folder.mkdir(parents=True)
    users, ids = domain.user_ids.to_list(), domain.items.ids.to_list()
    events: Mapping[str, object] = {
        "user_id:token": [users[row] for row in domain.sequences.rows.tolist()],
        "item_id:token": [ids[item] for item in domain.sequences.items.tolist()],
        "timestamp:float": np.array(domain.timestamps),
    }
    titles = [" ".join(title.split()) for title in domain.items.titles]
    items = {"item_id:token": ids, "title:token_seq": titles}
    for columns, suffix in ((events, "inter"), (items, "item")):
        path = folder / f"{domain.name}.{suffix}"
        pl.DataFrame(columns).write_csv(path, separator="\t", quote_style="never")


def _write_false_run(folder: Path, domain: Domain, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    n = domain.n_users

    def drawn() -> NDArray[np.int32]:
        return rng.integers(0, 30, size=n).astype(np.int32)

    columns = {
        "user": np.arange(n, dtype=np.int32),
        "n_better": drawn(),
        "n_tied": np.zeros(n, dtype=np.int32),
        "n_candidates": np.full(n, 30, dtype=np.int32),
        "ranked": np.ones(n, dtype=np.bool_),
    }
    pl.DataFrame(columns).write_parquet(folder / "per_user.parquet")
    write_json(folder / "manifest.json", {"target": domain.name, "status": "done"})
