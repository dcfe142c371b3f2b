"""What a killed run left of its scores counts only if the run itself wrote it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evaluation import Outcomes
from bench.runs.work import Work

SECRET = 2**127 + 5


def outcomes(better: int) -> Outcomes:
    zeros = np.zeros(7, np.int32)
    return Outcomes(
        n_better=zeros + better, n_tied=zeros, n_candidates=zeros + 30, ranked=np.ones(7, np.bool_)
    )


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "work")


def test_scored_rows_come_back_as_they_were(work):
    work.save_part("a", outcomes(3), {"tokens": 5}, SECRET)
    found, diagnostics = work.load_part("a", SECRET)
    assert found.n_better.tolist() == [3] * 7
    assert diagnostics == {"tokens": 5}
    assert work.load_part("b", SECRET) is None


def test_rows_that_somebody_else_made_up_are_forgotten(work):
    work.save_part("a", outcomes(0), {}, SECRET + 1)
    assert work.load_part("a", SECRET) is None


def test_rows_that_were_changed_or_not_signed_are_forgotten(work):
    work.save_part("a", outcomes(3), {}, SECRET)
    path = work.folder / "parts" / "a.npz"
    with np.load(path) as archive:
        columns = dict(archive)
    np.savez(path, **{**columns, "n_better": columns["n_better"] * 0})
    assert work.load_part("a", SECRET) is None
    del columns["signature"]
    np.savez(path, **columns)
    assert work.load_part("a", SECRET) is None
