"""Options that name a task, shared by the verbs that need one without running a method."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.output import echo

if TYPE_CHECKING:
    from bench.protocol import Task
    from bench.runs.spec import RunSpec

__all__ = [
    "MAX_SEED",
    "CandidateSeed",
    "DataRoot",
    "Drawn",
    "KeepLeak",
    "NNegatives",
    "OnError",
    "Target",
    "TiesOption",
    "TrainOnOption",
    "load_task",
    "note_left_out",
    "task_spec",
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
TrainOnOption = Annotated[TrainOn, typer.Option(help="Train on validation items as well or not.")]
KeepLeak = Annotated[
    bool, typer.Option("--keep-leak", help="Switch the cross-domain leak guard off.")
]
TiesOption = Annotated[Ties, typer.Option(help="Order of events of equal time.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of ready domains; default: BENCH_DATA_ROOT.")
]


def task_spec(
    method: str,
    target: str,
    *,
    negatives: DrawnNegatives = DrawnNegatives.UNIFORM,
    n_negatives: int = 29,
    candidate_seed: int = 0,
    train_on: TrainOn = TrainOn.TRAIN,
    keep_leak: bool = False,
    candidates: Path | None = None,
    ties: Ties = Ties.FILE,
    data_root: Path | None = None,
    limit_users: int | None = None,
) -> RunSpec:
    """The specification of a run of ``method`` on the task that the options name."""
    from bench.protocol import ProtocolOptions
    from bench.runs.spec import RunSpec

    return RunSpec(
        method=method,
        target=target,
        protocol=ProtocolOptions(
            negatives="imported" if candidates is not None else negatives.value,
            n_negatives=n_negatives,
            candidate_seed=candidate_seed,
            train_on=train_on.value,
            keep_leak=keep_leak,
        ),
        candidates=candidates,
        ties=ties.value,
        data_root=data_root,
        limit_users=limit_users,
    )


def load_task(spec: RunSpec) -> Task:
    """Build the task of a specification whose method needs no sources; name the users it leaves out."""
    from bench.runs.runner import prepare

    task = prepare(spec).loaded.task
    note_left_out(task)
    return task


def note_left_out(task: Task) -> None:
    """Say on standard error how many users a task leaves out, and why."""
    from bench.report.caption import left_out_note

    for note in left_out_note(task.left_out.record() if task.left_out else None):
        echo(f"note: {task.target}: {note}", err=True)
