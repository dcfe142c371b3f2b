"""Isolation: every test of this room has a cache of its own and no data root."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "bench-cache"
    monkeypatch.setenv("BENCH_CACHE", str(cache))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    return cache


@pytest.fixture(scope="session")
def committed_hashes() -> dict[str, set[str]]:
    """Domain -> content hashes in the manifests of the committed results."""
    found: dict[str, set[str]] = defaultdict(set)
    results = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
    for manifest in results.glob("*/*/manifest.json"):
        for name, domain in json.loads(manifest.read_text(encoding="utf-8"))["data"].items():
            found[name].add(domain["content_hash"])
    return found
