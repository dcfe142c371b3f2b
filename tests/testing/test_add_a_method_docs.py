"""The page docs/add-a-method.md: its class conforms, its list of checks is complete."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bench.methods import Capabilities, resolve
from bench.testing import CHECKS, check_method
from bench.testing.declarations import check_declared

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_class_of_the_page_conforms(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "next_item.py"
    path.write_text(blocks[0], encoding="utf-8")
    results = check_method(resolve(f"{path}:NextItem"))
    assert not [f"{r.id}: {r.reason}" for r in results if r.status != "pass"]


def test_the_page_lists_every_check_with_its_rule(page):
    table = page.partition("<!-- checks: begin -->")[2].partition("<!-- checks: end -->")[0]
    listed = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", table, re.MULTILINE))
    checks = {"declarations": check_declared, **CHECKS}
    expected = {name: check.__doc__.strip().splitlines()[0] for name, check in checks.items()}
    assert listed == expected


def test_the_page_names_every_capability(page):
    assert not [field.name for field in fields(Capabilities) if f"`{field.name}`" not in page]
