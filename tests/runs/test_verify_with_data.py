"""With the raw data at hand the gate rebuilds tasks and all request sets, and compares their hashes."""

from __future__ import annotations

import json

from bench.report.verify import against_data, verify_folder
from bench.runs.results import export_result
from bench.runs.runner import execute
from bench.runs.store import RunStore
from bench.runs.stored import write_manifest


def test_request_sets_are_those_of_the_data(store, make_spec, tmp_path, data_root):
    run = execute(make_spec("Statistic", extra_candidate_seeds=(1,), full_ranking=True), store)
    published = export_result(run, tmp_path / "results")
    assert verify_folder(tmp_path / "results").problems == ()
    assert against_data([published], data_root) == []
    # An easier draw under the seed of another one: only the data can tell.
    manifest = json.loads((published.path / "manifest.json").read_text())
    (drawn,) = [key for key, s in manifest["sets"].items() if s["kind"] == "candidates"]
    manifest["sets"][drawn]["candidate_seed"] = 2
    write_manifest(published.path, manifest)
    assert verify_folder(tmp_path / "results").problems == ()
    (problem,) = against_data(RunStore(tmp_path / "results").list(), data_root)
    assert f"sets.{drawn[:12]} is {drawn[:12]}" in problem.message
