"""Figures of publications, quoted below a rule: never marked, never tested, always with their source."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from bench.errors import ResultError, unknown_name
from bench.evaluation.bounds import Reported, is_feasible
from bench.report.table import DIGITS, Block, Figure, Row

__all__ = ["Publication", "load_publication", "publications", "reported_block"]

_FOLDER = ("suites", "reported")


@dataclass(frozen=True, slots=True)
class Publication:
    """Figures as printed somewhere.

    Attributes:
        name: name of the file without its suffix.
        source: where they were printed, and under which protocol.
        rows: ``(target, method, figures by metric)`` in the order of the file.
    """

    name: str
    source: str
    rows: tuple[tuple[str, str, Mapping[str, float]], ...]


def publications() -> list[str]:
    """Names of the publications in the package."""
    folder = resources.files("bench").joinpath(*_FOLDER)
    return sorted(p.name.removesuffix(".csv") for p in folder.iterdir() if p.name.endswith(".csv"))


def load_publication(name: str) -> Publication:
    """Read a publication of the package.

    The file is CSV with the columns ``target``, ``method`` and one per metric; lines that begin with
    ``#`` stand above the header and name the source.

    Raises:
        ConfigError: no publication of that name.
        ResultError: a line that does not fit the header, or a figure that is no number.
    """
    if name not in publications():
        raise unknown_name("publication", name, publications())
    path = resources.files("bench").joinpath(*_FOLDER, f"{name}.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    source = " ".join(line.lstrip("# ").strip() for line in lines if line.startswith("#"))
    reader = csv.DictReader(line for line in lines if line and not line.startswith("#"))
    rows = []
    for number, line in enumerate(reader, start=1):
        try:
            target, method = line.pop("target"), line.pop("method")
            rows.append((target, method, {m: float(v) for m, v in line.items() if v}))
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(
                f"{name}.csv, line {number} of the data: {error}; expected target, method and one "
                "number per metric. Correct the file."
            ) from error
    return Publication(name, source, tuple(rows))


def reported_block(publication: Publication, target: str, metrics: Sequence[str]) -> Block | None:
    """The block of a target, in the publication's order; None if it does not cover the target.

    Rows whose figures no ranking can have together are flagged ``inconsistent``.
    """
    rows = []
    for of_target, method, figures in publication.rows:
        if of_target != target:
            continue
        # Rounding moves a figure by half a unit of its last place.
        printed = {m: Reported(value, 10.0**-DIGITS) for m, value in figures.items()}
        rows.append(
            Row(
                method=method,
                label=method,
                family="",
                profile="",
                seeds=(),
                n_users=0,
                figures={m: Figure(figures[m]) for m in metrics if m in figures},
                flags=() if is_feasible(printed) else ("inconsistent",),
                provenance=publication.source,
            )
        )
    if not rows:
        return None
    return Block(
        f"As reported ({publication.name})", tuple(rows), comparable=False, kind="reported"
    )
