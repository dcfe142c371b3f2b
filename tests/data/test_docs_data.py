"""The data page is true: its Python runs and prints what it says, its table is the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.assets import ASSETS
from bench.data.catalogue import CATALOGUE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_python_example_prints_what_its_comment_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(code, "docs/data.md", "exec"), {})
    assert capsys.readouterr().out.strip() == code.rpartition("#")[2].strip()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_table_shows_the_catalogue(name):
    known = CATALOGUE[name]
    (row,) = re.findall(rf"^\| {name} \|(.*)\|$", PAGE, re.M)
    group, users, items, events, k_core, _ = (cell.strip() for cell in row.split("|"))
    assert group == (known.group or "-")
    assert [int(n.replace(",", "")) for n in (users, items, events)] == [
        known.expected.users,
        known.expected.items,
        known.expected.events,
    ]
    assert k_core == (str(known.k_core) if known.k_core else "-")


def test_every_asset_is_described():
    for name, asset in ASSETS.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", PAGE, re.M)
        assert asset.requirement in row or "the same wheel" in row
