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
def cache_of_a_test(fresh_cache: Path) -> None:
    """No test finds what another one has stored."""


@pytest.fixture
def parts(folder: Path) -> Parts:
    return Parts(folder)
