"""First stages are made once, shared, and paid for in the record of every run that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.baselines.pretraining import PretrainedStore, pretrained_store
from bench.baselines.training import TrainingReport
from bench.errors import MethodError
from bench.methods import AdapterUse
from bench.testing import make_context

KEY = {"domains": {"a": "1"}, "seed": 0}


class Maker:
    """Counts how often it trains."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        self.calls += 1
        (folder / "checkpoint.pt").write_text("kept while it trains")
        return {"w": torch.full((2, 2), float(self.calls))}, TrainingReport([], 0, "epochs")


def test_made_once_and_shared(tmp_path: Path) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    used: list[tuple[AdapterUse, ...]] = []
    store.watch(lambda use, _seconds, _cpu: used.append(use))
    first = store.get("m", KEY, "m on a", make)
    again = PretrainedStore(tmp_path).get("m", KEY, "m on a", make)
    store.get("m", KEY, "m on a", make)
    assert make.calls == 1
    torch.testing.assert_close(first.tensors["w"], again.tensors["w"])
    assert [use[0].trained_now for use in used] == [True, False]
    assert used[0][0].seconds == used[1][0].seconds == first.record["seconds"]
    assert store.has(used[0][0].adapter_id)
    assert not store.has("0" * 16)
    assert not list(tmp_path.glob("*.work"))


@pytest.mark.parametrize("key", [{**KEY, "seed": 1}, {**KEY, "domains": {"a": "2"}}])
def test_another_key_is_another_stage(tmp_path: Path, key: Mapping[str, object]) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    store.get("m", KEY, "", make)
    store.get("m", key, "", make)
    store.get("other", KEY, "", make)
    assert make.calls == 3


def test_an_interrupted_stage_leaves_its_checkpoint_and_its_cost(tmp_path: Path) -> None:
    store = PretrainedStore(tmp_path)
    told: list[tuple[AdapterUse, ...]] = []
    store.watch(lambda use, _seconds, _cpu: told.append(use))

    def killed(folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        (folder / "checkpoint.pt").write_text("half way")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("m", KEY, "", killed)
    assert told == [()]
    (work,) = tmp_path.glob("m-*.work")
    assert (work / "checkpoint.pt").read_text() == "half way"

    def resumed(folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        assert (folder / "checkpoint.pt").read_text() == "half way"
        return Maker()(folder)

    assert store.get("m", KEY, "", resumed).tensors["w"].sum() == 4
    assert not list(tmp_path.glob("*.work"))


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    store.get("m", KEY, "", make)
    (weights,) = tmp_path.glob("m-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    store.get("m", KEY, "", make)
    assert make.calls == 2


def test_a_context_without_the_store_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"holds NoneType .* adapter_store\(\)"):
        pretrained_store(make_context(tmp_path), "unisrec")
