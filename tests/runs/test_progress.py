from __future__ import annotations

import io
import logging
import re
import subprocess
import sys

import pytest

from bench.runs.progress import (
    LineProgress,
    LoggedProgress,
    QuietProgress,
    TerminalProgress,
    make_progress,
)
from bench.stamp import duration


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "mode", "kind"),
    [
        (_Terminal(), "auto", TerminalProgress),
        (io.StringIO(), "auto", LineProgress),
        (_Terminal(), "lines", LineProgress),
        (_Terminal(), "quiet", QuietProgress),
    ],
)
def test_reporter_fits_where_it_writes(stream, mode, kind):
    assert isinstance(make_progress(mode, stream), kind)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_lines_are_dated_and_name_stage_share_and_remaining_time():
    stream = io.StringIO()
    progress = LineProgress(stream, every=0.0)
    with progress.stage("fit sasrec"):
        assert list(progress.track(range(4), description="epoch 1/2")) == [0, 1, 2, 3]
        assert list(progress.track(iter("ab"))) == ["a", "b"]
        progress.status("validation NDCG@5 0.4000")
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    texts = [line[21:] for line in lines]
    assert "fit sasrec" in texts
    assert "epoch 1/2: 2/4 (50%), 0 s left" in texts
    assert "working: 1" in texts
    assert "fit sasrec: validation NDCG@5 0.4000" in texts


def test_the_time_left_counts_the_epochs_to_come(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("bench.runs.progress.time.perf_counter", lambda: float(next(clock)))
    stream = io.StringIO()
    progress = LoggedProgress(LineProgress(stream, every=0.0), logging.getLogger("test"))
    assert list(progress.track(range(3), description="epoch 1/5", more=12)) == [0, 1, 2]
    texts = [line[21:] for line in stream.getvalue().splitlines()]
    # 20 s for the first item, 2 more in this loop and 12 in later ones.
    assert texts[0] == "epoch 1/5: 1/3 (33%), at most 4 min 40 s left in all"


def test_what_was_named_by_others_does_not_drive_the_terminal():
    stream = io.StringIO()
    LineProgress(stream).line("fit \x1b[2J\u202etoy")
    assert stream.getvalue().endswith("fit \\x1b[2J\\u202etoy\n")


def test_lines_come_at_most_every_few_seconds():
    stream = io.StringIO()
    assert sum(1 for _ in LineProgress(stream).track(range(10_000))) == 10_000
    assert stream.getvalue() == ""


def test_terminal_shows_stage_state_and_bar_and_leaves_no_live_display():
    stream = _Terminal()
    progress = TerminalProgress(stream)
    with progress.stage("fit"):
        progress.status("validation NDCG@5 0.4000 [odd] markup")
        for _ in progress.track(range(3), description="epoch 1/1"):
            pass
    progress.line("[1/1] done")
    progress.close()
    progress.close()
    text = stream.getvalue()
    assert "[odd] markup" in text
    assert "epoch 1/1" in text and "[1/1] done" in text


def test_abandoned_loop_removes_its_bar():
    progress = TerminalProgress(_Terminal())
    loop = progress.track(range(5))
    next(iter(loop))
    loop.close()
    assert not progress._bars.task_ids
    with pytest.raises(ValueError, match="planted"), progress.stage("fit"):
        raise ValueError("planted")
    assert not progress._bars.task_ids
    progress.close()


def test_quiet_shows_nothing_and_passes_items_on(capsys):
    progress = QuietProgress()
    with progress.stage("fit"):
        assert list(progress.track([1, 2])) == [1, 2]
        progress.status("x")
        progress.line("y")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_logged_progress_writes_stages_and_states_to_the_log():
    records: list[str] = []
    log = logging.Logger("test")
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    log.addHandler(handler)
    progress = LoggedProgress(QuietProgress(), log)
    with progress.stage("fit 100 %s"):
        assert list(progress.track([1])) == [1]
        progress.status("loss 0.1")
    assert records == ["fit 100 %s", "loss 0.1"]


def test_standard_output_stays_clean_whatever_the_mode():
    code = (
        "from bench.runs.progress import make_progress\n"
        "for mode in ('auto', 'terminal', 'lines', 'quiet'):\n"
        "    p = make_progress(mode)\n"
        "    with p.stage('s'):\n"
        "        p.status('t'); p.line('u'); list(p.track(range(3)))\n"
        "    p.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "u" in done.stderr
