"""The end of ``bench run``: every run against the best rival that is stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.steady import steadily

if TYPE_CHECKING:
    from bench.report.comparison import Comparison
    from bench.runs.store import RunStore
    from bench.runs.stored import StoredRun

__all__ = ["PRIMARY", "REFERENCES", "against_best", "committed_folder"]

PRIMARY = "ndcg@5"
"""Metric that decides which rival is best, and that is tested."""

REFERENCES = ("popularity", "item-knn")
"""Methods that are run beside a lonely run: seconds, and hard to beat."""


def committed_folder() -> Path | None:
    """Committed results: of the working directory, else of the checkout the package runs from."""
    import bench
    from bench.runs.results import COMMITTED

    for place in (Path.cwd(), Path(bench.__file__).resolve().parent.parent):
        if (place / COMMITTED).is_dir():
            return place / COMMITTED
    return None


@steadily
def against_best(
    runs: Iterable[StoredRun], store: RunStore, *, without: Collection[str] = ()
) -> tuple[list[Comparison], list[StoredRun]]:
    """Compare every run with its best rival, over the same users.

    Args:
        runs: what is compared.
        store: where rivals are looked for, beside the committed results.
        without: ids of runs that are no rivals here.

    Returns:
        The comparisons, and the runs that have no rival, or none that ranks anything.
    """
    from bench.report.comparison import compare
    from bench.runs.results import find_rivals, ranks_nothing

    committed = committed_folder()
    found, lonely = [], []
    for run in runs:
        rivals = find_rivals(run, store, committed=committed)
        rivals = [rival for rival in rivals if rival.run_id not in without]
        if rivals:
            found.append(compare(run, rivals[0], PRIMARY))
        if not rivals or ranks_nothing(rivals[0]):
            lonely.append(run)
    return found, lonely
