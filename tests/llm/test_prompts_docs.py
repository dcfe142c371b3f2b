"""docs/prompts.md: its code runs, its template works, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tiny import tiny_tokenizer

from bench.llm.answers import COUNTERS
from bench.llm.prompts import PromptWriter, load_template
from bench.llm.template import BUILT_IN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_every_python_block_runs() -> None:
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "docs/prompts.md", "exec"), {})


def test_the_template_of_the_page_can_be_trained_on(tmp_path: Path) -> None:
    (text,) = blocks("jinja")
    path = tmp_path / "my_prompt.j2"
    path.write_text(text, encoding="utf-8")
    tokenizer = tiny_tokenizer()
    writer = PromptWriter(
        load_template(path), tokenizer, ["Emma", "Dune"], max_history=9, max_tokens=None
    )
    tokens, _ = writer.sequence([0, 1])
    assert tokenizer.decode(tokens.tolist()).endswith("in this order:\n* Emma\n* Dune\n")


def test_every_template_block_and_counter_is_explained() -> None:
    names = {*BUILT_IN, *COUNTERS, "chat", "title", "last", "n_answers"}
    for name in BUILT_IN:
        names |= load_template(name).blocks
    assert {name for name in names if f"`{name}`" not in PAGE} == set()
