"""The code in docs/statistics.md runs, and the page names the fields and functions there are."""

from __future__ import annotations

import re
from pathlib import Path

import bench.evaluation

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


def test_code_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})


def test_page_names_what_the_package_exports():
    text = PAGE.read_text(encoding="utf-8")
    table = text.split("| field | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(r.split("|")[1] for r in table.splitlines()[2:])))
    fields = set(bench.evaluation.SeedComparison.__dataclass_fields__) | {"equivalent"}
    assert named <= fields
    assert named >= fields - {"n", "seeds", "error", "error_users", "sd", "bound", "wilcoxon_p"}
    for name in re.findall(r"\(`(\w+)`\)|`(\w+)\(", text):
        assert hasattr(bench.evaluation, name[0] or name[1])
