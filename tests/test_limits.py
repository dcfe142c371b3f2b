"""Limits of time and memory around foreign code."""

from __future__ import annotations

import resource
import signal
import threading
from contextlib import suppress

import pytest

from bench.limits import LimitError, limited


def test_an_endless_loop_is_stopped_and_the_alarm_is_restored():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(LimitError, match=r"does not end within 0\.1 s"), limited(0.1, 10**9):
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) == before


def test_code_that_catches_every_exception_is_stopped_too():
    with pytest.raises(LimitError, match="does not end"), limited(0.1, 10**9):
        while True:
            with suppress(Exception):
                while True:
                    pass


def test_an_alarm_of_somebody_else_goes_on():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    old = signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        with limited(5, 10**9):
            pass
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 20 < left <= 30
    finally:
        signal.setitimer(signal.ITIMER_REAL, *old)
        signal.signal(signal.SIGALRM, before)


def test_memory_is_bounded_and_the_bound_is_lifted():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(LimitError, match="more than 100 MB"), limited(5, 100_000_000):
        bytearray(10**10)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_other_threads_run_without_a_limit_of_time():
    done = []

    def work() -> None:
        with limited(0.01, 10**9):
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]
