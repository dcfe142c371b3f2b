"""Fixtures of LLM-Rec's tests: the tiny encoder, and a cache per test."""

from __future__ import annotations

from pathlib import Path

import pytest
from llm_rec_parts import Parts
from tiny_encoder import tiny_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def parts(folder: Path) -> Parts:
    return Parts(folder)
