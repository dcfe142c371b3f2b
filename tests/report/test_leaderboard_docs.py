"""The code in docs/leaderboards.md runs, and the page explains every sign."""

from __future__ import annotations

import re
from pathlib import Path

from report_runs import RunWriter, random_outcomes

from bench.report.table import FLAGS

PAGE = Path(__file__).parents[2] / "docs" / "leaderboards.md"


def test_code_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    RunWriter(tmp_path / "bench-runs")("knn", random_outcomes(20, 0), target="amazon-beauty")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    assert "| knn " in capsys.readouterr().out


def test_page_explains_every_sign():
    text = PAGE.read_text(encoding="utf-8")
    for sign in FLAGS.values():
        assert f"| {sign} |" in text
