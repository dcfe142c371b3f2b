"""What an interrupted run says it cost."""

from __future__ import annotations

import json
import time

import pytest

from bench.protocol import RequestSet
from bench.runs.context import RunContext
from bench.runs.runner import execute
from bench.runs.store import RunStore

PAUSE = 0.2


def interrupt_at(monkeypatch, call: int) -> None:
    """The given validation ends in Ctrl-C, once."""
    original, calls = RunContext.validate, [0]

    def validate(self, method):
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, method)

    monkeypatch.setattr(RunContext, "validate", validate)


def test_fit_seconds_of_a_resumed_run_count_all_its_attempts(store, make_spec, monkeypatch):
    spec = make_spec(overrides={"epochs": 4, "pause": PAUSE})
    interrupt_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        execute(spec, store)
    run = execute(spec, store)
    manifest = run.manifest
    assert manifest["attempts"] == 2
    seconds, cpu = manifest["seconds"], manifest["cpu_seconds"]
    # Four epochs in the first attempt, the interrupted one again in the second.
    assert seconds["fit"] >= 5 * PAUSE
    assert seconds["earlier_attempts"] >= 4 * PAUSE
    assert seconds["total"] >= seconds["fit"] + seconds["score"]
    assert seconds["total"] > seconds["earlier_attempts"] + PAUSE
    assert cpu["total"] >= cpu["fit"] + cpu["score"]


def test_fit_seconds_of_a_killed_attempt_count_up_to_its_last_validation(
    store, make_spec, monkeypatch
):
    """Nothing may run after a kill, so the state on disk has to hold the open phase already."""
    spec = make_spec(overrides={"epochs": 3, "pause": PAUSE})
    saved = []
    original = RunContext.validate

    def validate(self, method):
        figures = original(self, method)
        saved.append((self.scratch.parent / "state.json").read_text())
        return figures

    monkeypatch.setattr(RunContext, "validate", validate)
    execute(spec, RunStore(store.root))
    walls = [json.loads(text)["wall"]["fit"] for text in saved]
    assert [wall >= number * PAUSE for number, wall in enumerate(walls, 1)] == [True] * 3


def test_score_seconds_of_a_resumed_run_count_all_its_attempts(store, make_spec, monkeypatch):
    monkeypatch.setattr("bench.runs.attempt.chunk_rows", lambda width: 10)
    spec = make_spec()
    original, seen = RequestSet.chunks, []

    def breaking(self, size):
        for number, chunk in enumerate(original(self, size)):
            time.sleep(PAUSE)
            if number == 2 and not seen:
                seen.append(number)
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(RequestSet, "chunks", breaking)
    with pytest.raises(KeyboardInterrupt):
        execute(spec, store, checkpoint_seconds=0.0)
    run = execute(spec, store, checkpoint_seconds=0.0)
    # Three pauses before the interruption, four afterwards.
    assert run.manifest["seconds"]["score"] >= 7 * PAUSE
