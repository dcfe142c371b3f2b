"""Stored runs: :func:`load_runs`. Loads neither methods nor a deep-learning library."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from tabulate import tabulate

from bench.errors import ConfigError
from bench.io import StrPath
from bench.report.frames import frame
from bench.report.plain import count_text
from bench.runs.rivals import published_folder
from bench.runs.store import Damage, RunStore, open_store
from bench.runs.stored import StoredRun
from bench.terminal import one_line, text_table

__all__ = ["Runs", "load_runs", "stored_runs"]

_RUN_COLUMNS = (
    *("target", "method", "profile", "sources", "seed", "metric", "mean", "lo", "hi", "n_users"),
    *("task_hash", "run_id"),
)
_LISTED = ("ndcg@1", "ndcg@5")


class Runs(Sequence[StoredRun]):
    """Stored runs, in order.

    Attributes:
        published: whether published results are among them.
    """

    def __init__(self, runs: Iterable[StoredRun], *, published: bool = False) -> None:
        self._runs = tuple(runs)
        self.published = published

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> StoredRun: ...

    @overload
    def __getitem__(self, index: slice) -> Runs: ...

    def __getitem__(self, index: int | slice) -> StoredRun | Runs:
        if isinstance(index, slice):
            return Runs(self._runs[index], published=self.published)
        return self._runs[index]

    def __repr__(self) -> str:
        methods = count_text(len({run.method for run in self}), "method")
        targets = ", ".join(dict.fromkeys(run.target for run in self))
        on = f" on {targets}" if targets else ""
        return f"Runs({count_text(len(self), 'run')} of {methods}{on})"

    def __str__(self) -> str:
        return text_table(*self.listing())

    def _repr_html_(self) -> str:
        headers, rows = self.listing()
        shown = [[one_line(str(cell)) for cell in row] for row in rows]
        return str(tabulate(shown, headers, tablefmt="html", disable_numparse=True))

    def listing(self) -> tuple[Sequence[str], list[Sequence[Any]]]:
        """Headings and rows of a list for people."""
        headers = ("run", "target", "method", "profile", "seed", "users", *_LISTED, "task")
        rows: list[Sequence[Any]] = [
            (
                *(run.run_id, run.target, run.shown_name, run.profile, run.seed, run.n_users),
                *(
                    f"{run.figures[metric]['mean']:.4f}" if metric in run.figures else "-"
                    for metric in _LISTED
                ),
                run.task_hash[:8],
            )
            for run in self
        ]
        return headers, rows

    def to_frame(self, kind: str = "pandas") -> Any:
        """One row per run and metric: ``method``, ``seed``, ``metric``, ``mean``, ``lo``, ``hi`` and others.

        ``lo`` and ``hi`` are the ends of the 95 % bootstrap interval over users.

        Args:
            kind: ``pandas`` or ``polars``.

        Raises:
            ConfigError: another kind.
            MissingExtraError: that library is not installed.
        """
        rows = [
            {
                "target": run.target,
                "method": run.shown_name,
                "profile": run.profile,
                "sources": ",".join(run.sources),
                "seed": run.seed,
                "metric": metric,
                "mean": value["mean"],
                "lo": value["ci95"][0],
                "hi": value["ci95"][1],
                "n_users": run.n_users,
                "task_hash": run.task_hash,
                "run_id": run.run_id,
            }
            for run in self
            for metric, value in run.figures.items()
        ]
        return frame(rows, _RUN_COLUMNS, kind)


def load_runs(
    store: RunStore | StrPath | Sequence[RunStore | StrPath] | None = None,
    *,
    target: str | None = None,
    method: str | None = None,
    published: bool = False,
    damaged: list[Damage] | None = None,
) -> Runs:
    """Read the runs of a store, or of several, each run once.

    Args:
        store: folder of stored runs, or several; None = ``BENCH_STORE``, else ``./bench-runs``.
        target: only this target.
        method: only this method.
        published: also published results: ``BENCH_PUBLISHED``, else those of the checkout.
        damaged: receives the folders that cannot be read; None = a warning names each.

    Raises:
        ConfigError: published results are wanted and there are none here.
    """
    if store is None or isinstance(store, RunStore | str | Path):
        store = [open_store(store)]
    places = [open_store(one) for one in store]
    if published:
        folder = published_folder()
        if folder is None:
            raise ConfigError(
                "no published results here: an installed package has none. Name a checkout's "
                "leaderboards/results with BENCH_PUBLISHED, or as another --store."
            )
        places.append(RunStore(folder))
    broken: list[Damage] = [] if damaged is None else damaged
    runs: dict[str, StoredRun] = {}
    for place in places:
        for run in place.list(target=target, method=method, damaged=broken):
            runs.setdefault(run.run_id, run)
    for one in broken if damaged is None else ():
        warnings.warn(f"left out: {one.reason}", stacklevel=2)
    return Runs(runs.values(), published=published)


def stored_runs(runs: Iterable[Any]) -> Iterator[StoredRun]:
    """The stored runs of stored runs, results of runs, and collections of both.

    Raises:
        ConfigError: something else.
    """
    for one in runs:
        found = one if isinstance(one, StoredRun) else getattr(one, "run", one)
        if isinstance(found, StoredRun):
            yield found
        elif isinstance(found, Iterable) and not isinstance(found, str):
            yield from stored_runs(found)
        else:
            raise ConfigError(
                f"{one!r} is no run; expected what `bench.run` or `bench.load_runs` gives."
            )
