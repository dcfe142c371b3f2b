"""Waits for other processes: told with the holder, limited, and quiet about what cannot be known."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import InUseError, ResultError
from bench.io import lock
from bench.waiting import holder, patience

HOLD = """
import sys
from pathlib import Path
from bench.io import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path):
    """A path that another process holds, and the process."""
    path = tmp_path / "thing"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), "\x1b[31m"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield path, process
    process.communicate(timeout=60)


def test_a_wait_is_told_with_its_holder_and_ends(held):
    path, process = held
    told: list[str] = []
    began = time.monotonic()
    with (
        patience(0.2, told.append),
        pytest.raises(InUseError, match=f"run 1 is in use by another process .{process.pid}: "),
        lock(path, what="run 1"),
    ):
        pass
    assert 0.2 <= time.monotonic() - began < 30
    assert len(told) == 1 and f"({process.pid}: python" in told[0]
    assert "which works on run 1, at most 0 s" in told[0]
    assert "\x1b" not in told[0], "a command line reaches the terminal as text only"


def test_who_asks_not_to_wait_does_not_and_hears_of_no_wait(held):
    told: list[str] = []
    with (
        patience(60.0, told.append),
        pytest.raises(ResultError, match="wait for it or stop it"),
        lock(held[0], timeout=0),
    ):
        pass
    assert told == []


def test_nobody_to_tell_means_a_warning(held, caplog):
    with (
        caplog.at_level(logging.WARNING),
        patience(0.1),
        pytest.raises(InUseError),
        lock(held[0]),
    ):
        pass
    assert "waiting for another process" in caplog.text


def test_a_released_lock_is_taken_within_the_wait(held):
    path, process = held
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        process.stdin.close()

    with patience(60.0, tell), lock(path):
        assert len(told) == 1
    process.stdin = None


def test_limits_nest_and_return(held):
    told: list[str] = []
    with patience(0.1, told.append):
        with patience(0.0), pytest.raises(InUseError), lock(held[0]):
            pass
        assert told == []
        with pytest.raises(InUseError), lock(held[0]):
            pass
        assert len(told) == 1


def test_an_unknown_holder_is_just_another_process(tmp_path):
    assert holder(tmp_path / "absent") == "another process"
    (tmp_path / "free").touch()
    assert holder(tmp_path / "free") == "another process"
