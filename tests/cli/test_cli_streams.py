"""Closed and full standard streams, and Ctrl-C several times at once, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.runs.store import RunStore

SLOW_METHOD = """
import time
from bench.methods import Capabilities, Family, Method, MethodConfig, Scores

class Slow(Method):
    name, version, family, Config = "slow", "1", Family.REFERENCE, MethodConfig

    @classmethod
    def capabilities(cls, config):
        return Capabilities(trainable=False)

    def fit(self, view, context):
        context.scratch.joinpath("began").touch()
        try:
            time.sleep(60)
        finally:
            time.sleep(0.3)

    def score(self, requests, context):
        raise AssertionError("it was interrupted")
"""


@pytest.mark.parametrize("closing", ["2>/dev/full", "2>&-", "2>&- >&- <&-"])
def test_a_run_needs_no_standard_error(tiny, tmp_path, closing):
    command = f'"{sys.executable}" -m bench run --method popularity --target {tiny} {closing}'
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert ("NDCG@5" in done.stdout) is (">&- <" not in closing)
    (run,) = RunStore(tmp_path / "runs").list(method="popularity")
    assert len(run.outcomes()) == run.n_users


def test_a_message_that_cannot_be_shown_keeps_its_exit_code(tmp_path):
    command = f'"{sys.executable}" -m bench runs show zz 2>/dev/full'
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 2


@pytest.mark.parametrize("pause", [0.02, 0.2])
def test_interrupts_at_once_end_with_one_sentence(tiny, tmp_path, pause):
    plugin = tmp_path / "slow_method.py"
    plugin.write_text(SLOW_METHOD)
    words = ["run", "--method", f"{plugin}:Slow", "--target", tiny]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    began = time.monotonic()
    while not list(Path(tmp_path / "runs").glob(".work/*/scratch/began")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - began < 120
        time.sleep(0.05)
    # With the longer pause the last ones come when all is told and the interpreter ends.
    for _ in range(5):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(pause)
    while pause > 0.1 and process.poll() is None:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.001)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.count("interrupted") == 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no full device")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["--help", "--version", "run --help", "domains"])
def test_full_standard_output_is_told_in_one_sentence(words, buffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if buffered else "1")
    command = f'"{sys.executable}" -m bench {words} >/dev/full'
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the disk is full")
    assert done.stderr.count(b"\n") == 1


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == "bench.cli.merge":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from bench.cli import main
main()
"""


def test_an_interrupt_while_the_verbs_are_loaded_ends_without_a_word():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, "methods"], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGINT
    assert not done.stdout
    assert not done.stderr


SWALLOWED_INTERRUPT = """
import os, signal, sys
from bench.cli import main

class Compiled:
    def find_spec(self, name, path=None, target=None):
        if name == "polars":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
            except KeyboardInterrupt:
                pass
            raise SystemError("initialisation failed: KeyboardInterrupt:")

sys.meta_path.insert(0, Compiled())
main()
"""


def test_an_interrupt_of_which_a_compiled_module_makes_another_error_is_one():
    words = ["data", "stats", "ml100k-drama"]
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED_INTERRUPT, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted")
