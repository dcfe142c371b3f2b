"""Small domains under the names of the page, and a private cache and store."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.methods.registry import METHODS


def write_domain(root: Path, name: str, seed: int) -> None:
    """Atomic files of 60 users on a circle of 45 items; most go to the next one."""
    draw = random.Random(seed)
    folder = root / name
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        item, seen = draw.randrange(45), []
        while len(seen) < 9:
            item = (item + (1 if draw.random() < 0.8 else draw.randrange(45))) % 45
            if item not in seen:
                seen.append(item)
                lines.append(f"u{user:02d}\ti{item:02d}\t{len(seen)}")
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    titles = ["item_id:token\ttitle:token_seq", *(f"i{i:02d}\tTitle {i}" for i in range(45))]
    (folder / f"{name}.item").write_text("\n".join(titles) + "\n")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The working directory: an empty one, with the data beside it."""
    for name in ("ml100k-drama", "ml100k-comedy"):
        write_domain(tmp_path / "data", name, seed=len(name))
    monkeypatch.setenv("BENCH_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_STORE", raising=False)
    monkeypatch.delenv("BENCH_PUBLISHED", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work)
    return work


@pytest.fixture(autouse=True)
def _registered_here_alone(monkeypatch):
    """Methods that a test hands over are registered in its process; the next test has them not."""
    METHODS.names()
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
