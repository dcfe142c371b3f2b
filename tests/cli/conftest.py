"""A private cache and store for every test, and a small domain imported through the command line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.cli import app

N_USERS, N_ITEMS = 60, 45


@pytest.fixture(autouse=True)
def private_folders(tmp_path, monkeypatch):
    """No test sees the user's runs, assets or data, nor the committed results."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    monkeypatch.delenv("BENCH_DEBUG", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


Call = Callable[..., Result]


@pytest.fixture
def cli() -> Call:
    """Run ``bench`` with the given words; checks the exit code (0 unless told otherwise)."""

    def call(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words], prog_name="bench")
        shown = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        if "error: unexpected" in result.stderr:  # a fault of the package: show where
            raise AssertionError(shown) from getattr(result.exception, "__context__", None)
        assert result.exit_code == code, shown
        assert "Traceback" not in result.stderr
        return result

    return call


def write_csv(folder: Path, name: str = "tiny", *, seed: int = 1, n_items: int = N_ITEMS) -> Path:
    """Interactions in which the next item mostly follows the last one on a circle."""
    draw = random.Random(seed)
    lines = ["user_id,item_id,timestamp"]
    for user in range(N_USERS):
        item, seen = draw.randrange(n_items), []
        for step in range(draw.randrange(6, 11)):
            item = (item + (1 if draw.random() < 0.8 else draw.randrange(n_items))) % n_items
            if item not in seen:
                seen.append(item)
                lines.append(f"u{user:03d},i{item:03d},{step}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    (folder / f"{name}-items.csv").write_text(
        "item_id,title\n" + "".join(f"i{i:03d},Title {i}\n" for i in range(n_items))
    )
    return path


@pytest.fixture
def tiny(cli, tmp_path) -> str:
    """Name of an imported domain of 60 users and 45 items."""
    path = write_csv(tmp_path)
    cli("data", "import", "tiny", path, "--items", tmp_path / "tiny-items.csv")
    return "tiny"
