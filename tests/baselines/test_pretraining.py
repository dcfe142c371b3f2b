"""First stages are made once, shared, and paid for in the record of every run that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.baselines import pretraining
from bench.baselines.pretraining import FirstStage, PretrainedStore, pretrained_store
from bench.baselines.training import TrainingReport
from bench.errors import MethodError, ResultError
from bench.io import read_json
from bench.methods import AdapterUse
from bench.testing import make_context

STAGE = FirstStage("m", "1", "pre-trained", {"epochs": 1}, domains={"a": "1"})


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
    first = store.get(STAGE, make)
    again = PretrainedStore(tmp_path).get(STAGE, make)
    store.get(STAGE, make)
    assert make.calls == 1
    torch.testing.assert_close(first.tensors["w"], again.tensors["w"])
    assert [use[0].trained_now for use in used] == [True, False]
    assert used[0][0].seconds == used[1][0].seconds == first.record["seconds"]
    assert store.has(used[0][0].adapter_id)
    assert not store.has("0" * 16)
    assert not list(tmp_path.glob("*.work"))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"version": "2"},
        {"settings": {"epochs": 2}},
        {"encoder": "ab"},
        {"domains": {"a": "2"}},
        {"domains": {"a": "1", "b": "1"}},
        {"seed": 1},
        {"dtype": "bfloat16"},
    ],
)
def test_whatever_it_depends_on_makes_another_stage(tmp_path: Path, change: dict[str, Any]) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    store.get(STAGE, make)
    store.get(replace(STAGE, **change), make)
    assert make.calls == 2


def test_changed_training_code_makes_another_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = STAGE.identity
    monkeypatch.setattr(pretraining, "TRAINER_VERSION", 99)
    assert STAGE.identity != before


def test_its_label_and_the_order_of_domains_do_not_matter() -> None:
    both = replace(STAGE, domains={"a": "1", "b": "2"})
    assert replace(both, domains={"b": "2", "a": "1"}, purpose="x").identity == both.identity
    assert both.label == "m pre-trained on a+b"
    assert both.known
    assert not replace(both, domains={"a": ""}).known
    assert not replace(both, encoder="").known


def test_an_interrupted_stage_leaves_its_checkpoint_and_its_cost(tmp_path: Path) -> None:
    store = PretrainedStore(tmp_path)
    told: list[tuple[AdapterUse, ...]] = []
    store.watch(lambda use, _seconds, _cpu: told.append(use))

    def killed(folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        (folder / "checkpoint.pt").write_text("half way")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(STAGE, killed)
    assert told == [()]
    (work,) = tmp_path.glob("m-*.work")
    assert (work / "checkpoint.pt").read_text() == "half way"

    def resumed(folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        assert (folder / "checkpoint.pt").read_text() == "half way"
        return Maker()(folder)

    cost = read_json(work / "cost.json")["seconds"]
    found = store.get(STAGE, resumed)
    assert found.tensors["w"].sum() == 4
    assert found.record["seconds"] >= cost
    assert not list(tmp_path.glob("*.work"))


def test_epochs_of_a_process_that_was_killed_are_paid_for(tmp_path: Path) -> None:
    epochs = [{"epoch": k, "loss": 1.0, "seconds": 50.0, "cpu_seconds": 40.0} for k in (1, 2)]

    def resumed(folder: Path) -> tuple[Mapping[str, Tensor], TrainingReport]:
        return {"w": torch.zeros(1)}, TrainingReport(epochs, 2, "epochs")

    record = PretrainedStore(tmp_path).get(STAGE, resumed).record
    assert (record["seconds"], record["cpu_seconds"]) == (100, 80)


@pytest.mark.parametrize("name", ["model.safetensors", "pretraining.json"])
def test_a_damaged_stage_is_refused_and_not_made_again(tmp_path: Path, name: str) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    store.get(STAGE, make)
    (file,) = tmp_path.glob(f"m-*/{name}")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ResultError, match=f"{name} was changed.*bench cache rm m-"):
        store.get(STAGE, make)
    assert make.calls == 1


def test_a_stage_of_an_earlier_version_is_judged_by_its_record_and_sealed(tmp_path: Path) -> None:
    make, store = Maker(), PretrainedStore(tmp_path)
    store.get(STAGE, make)
    (seal,) = tmp_path.glob("m-*/seal.json")
    seal.unlink()
    store.get(STAGE, make)
    assert make.calls == 1 and seal.is_file()
    seal.unlink()
    weights = seal.with_name("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ResultError, match="was changed"):
        store.get(STAGE, make)


def test_a_context_without_the_store_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"holds NoneType .* adapter_store\(\)"):
        pretrained_store(make_context(tmp_path), "unisrec")
