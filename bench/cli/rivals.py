"""The end of ``bench run``: every run against the best rival that is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.evaluation import PairedTest
    from bench.runs.store import RunStore
    from bench.runs.stored import StoredRun

__all__ = ["PRIMARY", "REFERENCES", "Comparison", "against_best", "committed_folder"]

PRIMARY = "ndcg@5"
"""Metric that decides which rival is best, and that is tested."""

REFERENCES = ("popularity", "item-knn")
"""Methods that are run beside a lonely run: seconds, and hard to beat."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One paired test; ``test.difference`` is run minus rival on :data:`PRIMARY`.

    Attributes:
        run: the run.
        rival: its best rival, None where there is none.
        test: the test, None without a rival.
    """

    run: StoredRun
    rival: StoredRun | None
    test: PairedTest | None


def committed_folder() -> Path | None:
    """Committed results: of the working directory, else of the checkout the package runs from."""
    import bench
    from bench.runs.results import COMMITTED

    for place in (Path.cwd(), Path(bench.__file__).resolve().parent.parent):
        if (place / COMMITTED).is_dir():
            return place / COMMITTED
    return None


def against_best(runs: Iterable[StoredRun], store: RunStore) -> list[Comparison]:
    """Two-sided paired t-test of every run against its best rival, over the same users."""
    from bench.evaluation import metric_per_user, paired_t_test
    from bench.runs.results import find_rivals

    committed = committed_folder()
    found = []
    for run in runs:
        rivals = find_rivals(run, store, committed=committed)
        if not rivals:
            found.append(Comparison(run, None, None))
            continue
        a, b = (metric_per_user(one.outcomes(), PRIMARY) for one in (run, rivals[0]))
        found.append(Comparison(run, rivals[0], paired_t_test(a, b)))
    return found
