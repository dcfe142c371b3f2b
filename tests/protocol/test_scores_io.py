"""Scores of other programs tie only if their file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_domains import random_domain

from bench.errors import ProtocolError
from bench.protocol import ProtocolOptions, RequestSet, build_task, read_scores

APART = {
    "tiny": ["1e-48", "2.5e-50", "1e-51"],
    "below float64": ["1e-400", "1e-500", "-1e-450"],
    "saturated": ["1", "0.99999999999999999999", "0.9999999999999999999"],
    "integers of 1e14": ["100000000000002", "100000000000001", "100000000000000"],
    "integers beyond 2**53": [str(2**53 + 3), str(2**53 + 2), str(2**53 + 1)],
}


@pytest.fixture(scope="module")
def requests() -> RequestSet:
    task = build_task(random_domain(11, n_users=25), options=ProtocolOptions(n_negatives=9))
    return task.test(task.subset(6))


def frame_of(requests: RequestSet, written: list[str]) -> pl.DataFrame:
    """The same ten scores for the candidates of every user."""
    domain = requests.domain
    ((part, _),) = requests.chunks(99)
    return pl.DataFrame(
        {
            "user_id": [domain.user_ids[int(user)] for user in part.users for _ in written],
            "item_id": [domain.items.ids[int(item)] for item in part.candidates.ravel()],
            "score": written * len(part),
        }
    )


@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.parquet"])
@pytest.mark.parametrize("case", APART)
def test_numbers_that_a_file_tells_apart_do_not_tie(
    requests: RequestSet, tmp_path: Path, name: str, case: str
) -> None:
    frame = frame_of(requests, [*APART[case], "-7", "-7.0", "-07", "-7e0", "-8", "-8", "-8.0"])
    if name.endswith("parquet"):
        frame.write_parquet(tmp_path / name)
    else:
        frame.write_csv(tmp_path / name, separator="," if name.endswith("csv") else "\t")
    values = read_scores(tmp_path / name, requests)
    assert values.dtype == np.float64
    assert (np.sign(np.diff(values)) == [-1, -1, -1, 0, 0, 0, -1, 0, 0]).all()


@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt64, pl.Decimal(20, 0)])
def test_integers_of_parquet_are_compared_exactly(
    requests: RequestSet, tmp_path: Path, kind: pl.DataType
) -> None:
    numbers = [str(2**53 + 9 - step) for step in range(10)]
    frame = frame_of(requests, numbers).with_columns(pl.col("score").cast(kind))
    frame.write_parquet(tmp_path / "s.parquet")
    assert (np.diff(read_scores(tmp_path / "s.parquet", requests)) < 0).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_text_becomes_the_nearest_float64(numbers: list[float]) -> None:
    """Rounding keeps the order, so that only equal float64 need a second look."""
    texts = [repr(number) for number in numbers] + [f"{number:.25g}" for number in numbers]
    read = pl.Series(texts).cast(pl.Float64, strict=False).to_list()
    assert read == [float(text) for text in texts]


@pytest.mark.parametrize("name", ["s.csv", "s.tsv"])
@pytest.mark.parametrize("column", ["user_id", "item_id", "score"])
def test_a_column_that_stands_twice_is_refused(
    requests: RequestSet, tmp_path: Path, name: str, column: str
) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    frame = frame_of(requests, [str(i) for i in range(10)]).with_columns(again=pl.lit("0"))
    header, _, rows = frame.write_csv(separator=separator).partition("\n")
    (tmp_path / name).write_text(header.replace("again", column) + "\n" + rows)
    with pytest.raises(ProtocolError, match=f"column '{column}' stands more than once"):
        read_scores(tmp_path / name, requests)
