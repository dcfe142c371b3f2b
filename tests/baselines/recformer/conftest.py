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
def cache_of_a_test(fresh_cache: Path) -> None:
    """No test finds what another one has stored."""


@pytest.fixture(params=KINDS)
def parts(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Parts:
    return Parts(folders[request.param])
