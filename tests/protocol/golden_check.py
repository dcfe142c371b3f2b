"""Recompute the golden vectors with bench and compare; needs NumPy, no pytest: ``python golden_check.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.protocol.candidates import draw_negatives, place_positives, population
from bench.protocol.keys import fnv1a, id_hashes, salt64, stream_keys
from bench.protocol.titles import title_groups

GOLDEN = Path(__file__).with_name("golden_candidates.json")


def check() -> int:
    """Raise AssertionError on the first difference; return the number of compared rows."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    ids = StringColumn.from_list([entry["id"] for entry in golden["hashes"]])
    assert [f"{h:016x}" for h in fnv1a(ids).tolist()] == [e["fnv1a"] for e in golden["hashes"]]
    assert [f"{h:016x}" for h in id_hashes(ids).tolist()] == [e["mixed"] for e in golden["hashes"]]
    for entry in golden["streams"]:
        salt = salt64("candidates", entry["seed"], entry["split"], entry["domain"])
        assert f"{salt:016x}" == entry["salt"]
        keys = stream_keys(id_hashes(StringColumn.from_list([entry["user"]])), salt)
        assert f"{int(keys[0]):016x}" == entry["key"]
    compared = 0
    for case in golden["cases"]:
        n = case["n_items"]
        titles = [f"Title  {i % case['distinct_titles']}" for i in range(n)]
        groups = title_groups(StringColumn.from_list(titles))
        weights = np.array([1 + 200 // (i + 1) for i in range(n)]) if case["weights"] else None
        users = [row["user"] for row in case["rows"]]
        histories = [row["history"] for row in case["rows"]]
        flat = np.array([item for history in histories for item in history])
        history = Sequences(np.cumsum([0, *map(len, histories)]), groups[flat])
        salt = salt64("candidates", case["seed"], case["split"], case["domain"])
        keys = stream_keys(id_hashes(StringColumn.from_list(users)), salt)
        negatives = draw_negatives(population(groups, weights), keys, history, case["n_negatives"])
        positives = np.array([h[-1] for h in histories], dtype=np.int32)
        candidates, position = place_positives(negatives, positives, keys)
        for row, found, column in zip(
            case["rows"], candidates.tolist(), position.tolist(), strict=True
        ):
            assert found == row["candidates"], (case["n_items"], row["user"])
            assert column == row["position"]
            compared += 1
    return compared


if __name__ == "__main__":
    print(f"numpy {np.__version__}: {check()} rows equal")
    assert not {"torch", "pandas", "polars"} & set(sys.modules)
