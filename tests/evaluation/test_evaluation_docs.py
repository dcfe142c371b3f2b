"""The code in docs/evaluation.md runs, and the page names what the package exports."""

from __future__ import annotations

import re
from pathlib import Path

import bench.evaluation

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_code_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})


def test_page_names_the_metrics_and_the_columns():
    text = PAGE.read_text(encoding="utf-8")
    for metric in bench.evaluation.METRICS:
        kind = metric.partition("@")[0]
        assert (f"`{kind}@k`" if "@" in metric else f"`{kind}`") in text
    for column in bench.evaluation.Outcomes.__dataclass_fields__:
        assert f"`{column}`" in text
