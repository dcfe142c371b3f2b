"""docs/protocol.md: its code runs, and its vectors are those of the golden file."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_code_blocks_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/protocol.md", "exec"), {})


def test_vectors_are_the_golden_ones() -> None:
    golden = json.loads((HERE / "golden_candidates.json").read_text(encoding="utf-8"))
    stream, hashes, row = golden["streams"][0], golden["hashes"][0], golden["cases"][0]["rows"][0]
    assert (stream["seed"], stream["split"], stream["domain"]) == (0, "test", "amazon-beauty")
    assert stream["user"] == hashes["id"] == row["user"] == "A1"
    shown = [str(item) for item in row["candidates"]]
    shown[row["position"]] = f"**{shown[row['position']]}**"
    for value in (
        f"salt is `{stream['salt']}`",
        f"FNV-1a `{hashes['fnv1a']}`",
        f"mixed `{hashes['mixed']}`",
        f"key `{stream['key']}`",
        f"numbers `{' '.join(stream['draws'][:4])}`",
        f"history {' '.join(map(str, row['history']))} ",
        f"candidates {' '.join(shown)}.",
    ):
        assert value in PAGE, value
    assert f"holds {sum(len(case['rows']) for case in golden['cases'])} complete rows" in PAGE
