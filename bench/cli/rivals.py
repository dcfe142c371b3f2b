"""The end of ``bench run``: every run against the best rival, and where rivals are looked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.steady import steadily

if TYPE_CHECKING:
    from bench.report.comparison import Comparison
    from bench.runs.rivals import Rivals
    from bench.runs.store import RunStore
    from bench.runs.stored import StoredRun

__all__ = [
    "PRIMARY",
    "REFERENCES",
    "RivalsOption",
    "against_best",
    "lacking_references",
    "open_rivals",
    "places_text",
]

PRIMARY = "ndcg@5"
"""Metric that decides which rival is best, and that is tested."""

REFERENCES = ("popularity", "item-knn")
"""Methods that are run beside a lonely run: seconds, and hard to beat."""

PUBLISHED, NONE = "published", "none"

RivalsOption = Annotated[
    str,
    typer.Option(
        metavar="published|none|DIR",
        help="Rivals beside the store's own runs: published results (BENCH_PUBLISHED, else those of "
        "the checkout that bench runs from), none, or the results in a folder.",
    ),
]


def open_rivals(value: str, store: RunStore) -> Rivals:
    """The places that ``--rivals`` means.

    Raises:
        ConfigError: no such folder.
    """
    from bench.runs.rivals import Rivals, published_folder, results_in

    if value == NONE:
        return Rivals(store)
    folder = published_folder() if value == PUBLISHED else results_in(Path(value))
    if folder is not None and folder.resolve() == store.root.resolve():
        return Rivals(store)
    return Rivals(store, folder, wanted=True)


@steadily
def against_best(runs: Iterable[StoredRun], rivals: Rivals) -> list[Comparison]:
    """Compare every run that has a rival with its best one, over the same users."""
    from bench.report.comparison import compare

    found = [(run, rivals.of_run(run)) for run in runs]
    return [compare(run, others[0], PRIMARY) for run, others in found if others]


def lacking_references(
    run: StoredRun, rivals: Rivals, *, asked: Collection[str], without: Collection[str] = ()
) -> tuple[str, ...]:
    """The reference methods that belong beside a run: none, or all but its own.

    A run that has a rival besides them needs none. If only some of them are there, the command that made
    them was stopped; then they are all named, so that its repetition shows what it would have shown.

    Args:
        run: a run that was asked for.
        rivals: where rivals are looked for.
        asked: ids of all runs that were asked for, which are company for one another.
        without: ids of runs that are no rivals here.
    """
    from bench.runs.rivals import ranks_nothing

    found = [r for r in rivals.of_run(run, without=without) if not ranks_nothing(r)]
    if any(rival.method not in REFERENCES or rival.run_id in asked for rival in found):
        return ()
    wanted = tuple(name for name in REFERENCES if name != run.method)
    return () if {rival.method for rival in found} >= set(wanted) else wanted


def places_text(runs: Sequence[StoredRun], rivals: Rivals) -> str:
    """One sentence: where rivals of some runs were looked for, and how many there are."""
    from bench.runs.rivals import COMMITTED

    n_own, n_published = rivals.counts(other for run in runs for other in rivals.of_run(run))
    text = f"Rivals of the same task and users: {n_own} in {_shown(rivals.store.root)}"
    if rivals.published is not None:
        text += f", {n_published} published in {_shown(rivals.published)}"
    elif rivals.wanted:
        text += (
            f"; no published ones, which the package does not carry: {COMMITTED} of a checkout holds them, "
            "name it with --rivals DIR or BENCH_PUBLISHED"
        )
    if rivals.damaged:
        text += f"; passed over, since damaged: {', '.join(map(_shown, rivals.damaged))}"
    return f"{text}."


def _shown(path: Path) -> str:
    """A path as people read it: relative to the working directory if it lies below."""
    full, here = path.resolve(), Path.cwd().resolve()
    return str(full.relative_to(here)) if here in full.parents else str(full)
