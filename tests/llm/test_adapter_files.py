"""The folder of one adapter: what is refused when it is made, and damage found later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapter_makers import SPORTS, Maker, recipe

from bench.errors import MethodError, ResultError
from bench.io import write_json
from bench.llm import adapters
from bench.llm.adapter_files import CONFIG, METADATA, WEIGHTS
from bench.llm.adapters import AdapterStore


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no adapter_config.json and no adapter_model.safetensors"),
        ({CONFIG: "{}"}, "no adapter_model.safetensors"),
        ({CONFIG: "{}", WEIGHTS: "x", "optimizer.bin": "x"}, "optimizer.bin"),
    ],
)
def test_what_is_no_peft_adapter_is_refused(store, files, words):
    def make(out: Path, checkpoints: Path):
        for name, text in files.items():
            (out / name).write_text(text)
        return {}

    with pytest.raises(MethodError, match=words):
        store.obtain(recipe(), make)
    assert not store.has(recipe().adapter_id)


def test_a_report_without_json_form_is_refused(store):
    with pytest.raises(MethodError, match="not JSON"):
        store.obtain(recipe(), Maker(report={"loss": float("nan")}))
    with pytest.raises(MethodError, match="list"):
        store.obtain(recipe(), Maker(report=[1]))


COST = {"seconds": 1.0, "cpu_seconds": 1.0, "tokens": 1, "attempts": 1}


def _edit(folder: Path, **changes) -> None:
    metadata = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps({**metadata, **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"x"), f"{WEIGHTS} was changed"),
        (lambda f: (f / CONFIG).unlink(), f"{CONFIG} is missing"),
        (lambda f: (f / METADATA).unlink(), "no such file"),
        (lambda f: (f / METADATA).write_text("{"), "not valid JSON"),
        (lambda f: (f / METADATA).write_text("[]"), "expected an object"),
        (lambda f: (f / METADATA).write_text("{}"), "no format number"),
        (lambda f: _edit(f, adapter_id="0" * 16), "belongs to adapter '0000000000000000'"),
        (lambda f: _edit(f, cost={}), "cost or lineage is incomplete"),
        (lambda f: _edit(f, lineage=[{"adapter_id": "x"}]), "cost or lineage is incomplete"),
        (
            lambda f: _edit(f, cost=COST | {"tokens": 2**63 + 1}),
            "cost.tokens is 9223372036854775809",
        ),
        (lambda f: _edit(f, cost=COST | {"tokens": 10**400}), "not valid JSON"),
        (lambda f: _edit(f, cost=COST | {"tokens": -1}), "cost.tokens is -1; expected"),
        (lambda f: _edit(f, cost=COST | {"seconds": "3"}), "cost.seconds is '3'; expected"),
        (lambda f: _edit(f, lineage=["a"]), "lineage.0 is 'a'; expected"),
        (lambda f: _edit(f, recipe={"backbone": ["a"]}), "recipe.backbone is ['a']; expected"),
        (lambda f: _edit(f, recipe={"mixture": ["a"]}), "recipe.mixture.0 is 'a'; expected"),
        (lambda f: _edit(f, recipe={"mixture": [{}]}), "mixture.0.domain is missing"),
        (lambda f: _edit(f, init_hash=["a"]), "init_hash is ['a']; expected"),
        (lambda f: _edit(f, label=["a"]), "field 'label' is list, expected str"),
        (lambda f: _edit(f, files={CONFIG: 1, WEIGHTS: []}), "files.adapter_config.json is 1"),
        (lambda f: _edit(f, files={}), "does not list"),
        (lambda f: _edit(f, files=[]), "field 'files' is list, expected dict"),
    ],
)
def test_damage_is_named_with_the_command_that_helps(store, damage, words):
    folder = store.obtain(recipe(), Maker()).folder
    damage(folder)
    with pytest.raises(ResultError, match="damaged adapter") as caught:
        AdapterStore(store.root).obtain(recipe(), Maker())
    assert words in str(caught.value)
    assert f"bench adapters rm {folder.name}" in str(caught.value)
    store.remove(folder.name)
    assert AdapterStore(store.root).obtain(recipe(), Maker()).folder == folder


def test_a_file_name_that_leads_out_of_the_folder_is_damage(store):
    adapter = store.obtain(recipe(), Maker())
    files = {**adapter.metadata["files"], "../../secret": "0" * 64}
    _edit(adapter.folder, files=files)
    with pytest.raises(ResultError, match="leads out of the folder"):
        store.find(adapter.adapter_id)


def test_a_newer_format_is_refused(store):
    folder = store.obtain(recipe(), Maker()).folder
    _edit(folder, format=2)
    with pytest.raises(ResultError, match="adapter format 2; this version reads up to 1"):
        store.find(folder.name)


def test_damaged_adapters_do_not_hide_the_others(store):
    store.obtain(recipe(), Maker())
    broken = store.obtain(recipe(SPORTS), Maker()).folder
    (broken / METADATA).write_text("{")
    damaged: list[str] = []
    assert [a.adapter_id for a in store.list(damaged)] == [recipe().adapter_id]
    assert len(damaged) == 1
    with pytest.raises(ResultError):
        store.list()


def test_a_changed_cost_is_damage(store):
    adapter = store.obtain(recipe(), Maker())
    _edit(adapter.folder, cost={**adapter.metadata["cost"], "seconds": 1e9})
    with pytest.raises(ResultError, match=f"{METADATA} was changed"):
        AdapterStore(store.root).find(adapter.adapter_id)


def test_metadata_of_an_earlier_version_have_no_hash_of_their_own(store):
    adapter = store.obtain(recipe(), Maker())
    metadata = dict(adapter.metadata)
    del metadata["metadata_sha256"]
    write_json(adapter.folder / METADATA, metadata)
    assert AdapterStore(store.root).find(adapter.adapter_id).metadata == metadata


def test_an_adapter_that_is_removed_meanwhile_is_gone_and_not_damaged(store, monkeypatch):
    adapter = store.obtain(recipe(), Maker())
    read = adapters.read_stored

    def late(folder):
        if folder.exists():
            AdapterStore(store.root).remove(folder.name)
        return read(folder)

    monkeypatch.setattr(adapters, "read_stored", late)
    assert store.list() == []
    monkeypatch.undo()
    store.obtain(recipe(), Maker())
    monkeypatch.setattr(adapters, "read_stored", late)
    assert store.find(adapter.adapter_id) is None
    assert list(store.root.glob(".work/*")) == []


def test_clean_removes_what_killed_processes_left_under_construction(store):
    adapter = store.obtain(recipe(), Maker())
    left = store.root / ".partial-bench-x"
    left.mkdir()
    assert list(store.clean()) == [left]
    assert store.get(adapter.adapter_id).folder.is_dir() and not left.exists()
