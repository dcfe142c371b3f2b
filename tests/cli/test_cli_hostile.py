"""Every parameter of every verb meets every hostile input: one sentence, an exit code, no escape.

The verbs and parameters are those of the parser itself, so that a new one is tried from its first day.
"""

from __future__ import annotations

import itertools
import time

import pytest
from typer.testing import CliRunner

from bench.cli import app
from tests.cli.hostile import commands, hostile_files, hostile_words, words_of

VERBS = {" ".join(path): (path, command) for path, command in commands()}
UNSAFE = ("\x1b", "\x9b", "\u202e", "\x07")
PER_PARAMETER = 2
"""Inputs tried for a parameter in a fast test; the slow one tries all."""


def parameters(command):
    return [one for one in command.params if not getattr(one, "is_flag", False)]


def fault(words: list[str]) -> str | None:
    """What is wrong with how a call ended, or None."""
    began = time.monotonic()
    result = CliRunner().invoke(app, words, prog_name="bench")
    told = f"{result.exit_code} {result.exception!r}\n{result.output[-800:]}"
    if result.exit_code not in (0, 1, 2) or not isinstance(result.exception, SystemExit | None):
        return told
    if "unexpected" in result.stderr or "Traceback" in result.output:
        return told
    if result.exit_code and not result.stderr.strip() and not result.stdout.strip():
        return f"{told}: ended without a word"
    if any(mark in result.output for mark in UNSAFE):
        return f"{told}: an escape sequence reached the terminal"
    return f"{told}: took too long" if time.monotonic() - began > 60 else None


def faults(verb: str, tmp_path, per_parameter: int | None) -> dict[str, str]:
    path, command = VERBS[verb]
    inputs = {**hostile_words(), **{k: str(v) for k, v in hostile_files(tmp_path).items()}}
    # Verbs and parameters begin at different inputs, so that a fast run meets all of them somewhere.
    turn = itertools.islice(itertools.cycle(inputs.items()), sum(map(ord, verb)), None)
    found = {}
    for parameter in parameters(command):
        for label, value in itertools.islice(turn, per_parameter or len(inputs)):
            if value.startswith("-") and parameter.param_type_name == "argument":
                continue
            told = fault(words_of(path, command, parameter.name, value))
            if told is not None:
                found[f"{parameter.name} = {label}"] = told
    return found


@pytest.mark.parametrize("verb", [verb for verb in VERBS if parameters(VERBS[verb][1])])
def test_no_input_makes_a_traceback(verb, tiny, tmp_path):
    assert faults(verb, tmp_path, PER_PARAMETER) == {}


@pytest.mark.slow
@pytest.mark.parametrize("verb", [verb for verb in VERBS if parameters(VERBS[verb][1])])
def test_no_input_at_all_makes_a_traceback(verb, tiny, tmp_path):
    assert faults(verb, tmp_path, None) == {}
