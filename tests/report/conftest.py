"""Fixtures of the report tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from report_runs import RunWriter


@pytest.fixture
def write_run(tmp_path):
    """A writer of run folders in a fresh store."""
    return RunWriter(tmp_path / "store")
