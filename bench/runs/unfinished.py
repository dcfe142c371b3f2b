"""What interrupted runs, and those that run now, left in the store's work folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.errors import ResultError
from bench.io import lock
from bench.runs.store import RunStore
from bench.runs.stored import LOG

__all__ = ["Unfinished", "unfinished_runs"]

_LABEL = re.compile(r"(\S+) .*?\brun [0-9a-f]{16}: (.*)")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run without a result.

    Attributes:
        run_id: its identity.
        label: method, target and seed, as its log names them; "" if it wrote none.
        started: UTC time of its first attempt, or "".
        running: whether a process works on it now.
    """

    run_id: str
    label: str
    started: str
    running: bool


def unfinished_runs(store: RunStore) -> list[Unfinished]:
    """Every run with work to go on from, in order of their ids; a failed one has nothing but its log."""
    found = []
    for folder in store.unfinished():
        try:
            left = {path.name for path in folder.iterdir()}
        except FileNotFoundError:  # finished meanwhile
            continue
        if left <= {LOG}:
            continue
        label, started = _named(folder / LOG)
        found.append(Unfinished(folder.name, label, started, _in_use(folder)))
    return found


def _named(log: Path) -> tuple[str, str]:
    """Label and begin of a run, from the first line of its log."""
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            match = _LABEL.match(stream.readline().rstrip("\n"))
    except OSError:
        return "", ""
    return (match[2], match[1]) if match else ("", "")


def _in_use(folder: Path) -> bool:
    try:
        with lock(folder, timeout=0):
            return False
    except ResultError:
        return True
