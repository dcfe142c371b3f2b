"""Options that several verbs have: those that name a task, and the folders."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.cli.output import echo

if TYPE_CHECKING:
    from bench import TaskHandle

__all__ = [
    "MAX_SEED",
    "CandidateSeed",
    "DataRoot",
    "Drawn",
    "KeepLeak",
    "NNegatives",
    "OnError",
    "OnErrorOption",
    "StoreOption",
    "Target",
    "TiesOption",
    "TrainOnOption",
    "load_task",
    "task_of",
]


class TrainOn(StrEnum):
    """What a method is trained on."""

    TRAIN = "train"
    TRAIN_VALID = "train+valid"


class DrawnNegatives(StrEnum):
    """How the negatives of a candidate set are drawn."""

    UNIFORM = "uniform"
    POPULARITY = "popularity"


class Ties(StrEnum):
    """Order of events of equal time."""

    FILE = "file"
    HASH = "hash"


class OnError(StrEnum):
    """What happens at a malformed line."""

    RAISE = "raise"
    SKIP = "skip"


Target = Annotated[str, typer.Option(help="Target domain.")]
MAX_SEED = 10**18 - 1
"""As of the lists of seeds of ``bench run``: what 64 bits hold, and stored manifests with them."""

CandidateSeed = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Seed of the test candidates.")
]
Drawn = Annotated[DrawnNegatives, typer.Option(help="How negatives are drawn.")]
NNegatives = Annotated[int, typer.Option(min=1, help="Negatives per user.")]
TrainOnOption = Annotated[
    TrainOn, typer.Option(help="Whether validation items are trained on as well.")
]
KeepLeak = Annotated[
    bool, typer.Option("--keep-leak", help="Switch the cross-domain leak guard off.")
]
TiesOption = Annotated[
    Ties, typer.Option(help="Order of events of equal time: as in the file, or by a hash.")
]
OnErrorOption = Annotated[
    OnError, typer.Option(help="At a malformed line of the data: stop, or skip and count.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of ready domains; default: BENCH_DATA_ROOT.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option(help="Folder of stored runs; default: BENCH_STORE, else ./bench-runs."),
]


def task_of(target: str, **options: Any) -> TaskHandle:
    """The task of a target by name.

    Args:
        target: name of the domain.
        options: as the command line has them, see :func:`bench.load_task`.
    """
    from bench.data.sources import check_name

    check_name(target)  # not the path of a folder
    values: dict[str, Any] = {
        key: value.value if isinstance(value, StrEnum) else value for key, value in options.items()
    }
    return bench.load_task(target, **values)


def load_task(target: str, **options: Any) -> TaskHandle:
    """As :func:`task_of`; the users that the task leaves out are named on standard error."""
    from bench.report.caption import left_out_note

    handle = task_of(target, **options)
    left_out = handle.task.left_out
    for note in left_out_note(left_out.record() if left_out else None):
        echo(f"note: {target}: {note}", err=True)
    return handle
