"""The conformance kit on a method that keeps its adapters in a store."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from bench.io import cache_root
from bench.methods.registry import resolve
from bench.testing import check_method
from bench.testing.isolation import watch_writes

FILE = Path(__file__).parents[1] / "runs" / "adapter_methods.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["Adapted", "Alone"])
def test_a_method_with_adapters_conforms_and_every_fit_trains_its_own(name, tmp_path):
    cls = resolve(f"{FILE}:{name}")
    log = tmp_path / "log"
    results = check_method(cls, cls.Config(log=""))
    faults = [f"{r.id}: {r.reason}" for r in results if r.status != "pass"]
    assert faults == []
    assert not (cache_root() / "adapters").exists(), "the kit keeps to temporary folders"

    # The log is outside of the scratch folder, so it is used for counting alone.
    check_method(cls, cls.Config(log=str(log)), checks=["same-seed-same-scores"])
    trained = [line for line in log.read_text().splitlines() if line.startswith("train planted")]
    assert len(trained) == 2 * (3 if name == "Adapted" else 1)


def test_an_adapter_that_depends_on_global_state_is_found_out(tmp_path):
    """Were the store shared between fits, the second one would find the first one's adapter."""
    spec = importlib.util.spec_from_file_location("adapter_methods_under_test", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        import numpy as np

        successors = module._successors

        def careless(view):
            noise = np.random.rand(view.n_items, view.n_items)  # noqa: NPY002 - the planted fault
            return successors(view) + noise.astype(np.float32)

        module._successors = careless
        results = check_method(module.Alone, checks=["same-seed-same-scores"])
    finally:
        del sys.modules[spec.name]
    assert [result.status for result in results] == ["fail"]


def test_removing_a_tree_counts_where_it_lies(tmp_path):
    """`shutil.rmtree` names files relative to an open folder, not to the working directory."""
    allowed, elsewhere = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed, elsewhere):
        (folder / "tree" / "deep").mkdir(parents=True)
        (folder / "tree" / "deep" / "file").touch()
    with watch_writes([allowed]) as writes:
        shutil.rmtree(allowed / "tree")
    assert writes == []
    with watch_writes([allowed]) as writes:
        shutil.rmtree(elsewhere / "tree")
    assert str(elsewhere / "tree" / "deep" / "file") in writes
    assert all(path.startswith(str(elsewhere)) for path in writes)
