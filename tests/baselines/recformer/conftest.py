"""Fixtures of RecFormer's tests: both tiny encoders, and a cache per test."""

from __future__ import annotations

from pathlib import Path

import pytest
from recformer_parts import KINDS, Parts
from tiny_encoder import tiny_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(root / kind, architecture=kind) for kind in KINDS}  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=KINDS)
def parts(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Parts:
    return Parts(folders[request.param])
