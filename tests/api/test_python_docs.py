"""docs/python.md: every snippet runs, every parameter and every public name is described."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

import bench

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
FILE = re.compile(r"# (\w+)\.py\n")


def sections() -> dict[str, str]:
    return dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def first_cells(text: str) -> set[str]:
    """Names in the first column of the tables of a text."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_snippet_runs(home, capsys):
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        if file := FILE.match(snippet):
            (home / f"{file[1]}.py").write_text(snippet)
        else:
            exec(compile(snippet, "docs/python.md", "exec"), names)
    sys.modules.pop("newest_item", None)
    assert len(SNIPPETS) > 10
    printed = capsys.readouterr().out
    assert "item-knn - popularity" in printed
    assert "Did you mean 'item-knn'" in printed
    assert (home / "bench-runs/ml100k-drama").is_dir() and (home / "bench-runs/shop").is_dir()
    assert (home / "other-runs/ml100k-drama").is_dir()


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("Tasks", "load_task"),
        ("Runs", "run"),
        ("Stored runs", "load_runs"),
        ("Tables", "table"),
        ("Comparisons", "compare"),
    ],
)
def test_every_parameter_is_described(section, name):
    parameters = set(inspect.signature(getattr(bench, name)).parameters)
    assert first_cells(sections()[section]) == parameters


def test_every_public_name_has_its_stability():
    text = sections()["Stability"]
    assert first_cells(text) == set(bench.__all__)
    words = re.findall(r"^\| `.*\| (\w+) \|$", text, re.M)
    assert len(words) == len(bench.__all__) and set(words) == {"stable", "provisional"}
