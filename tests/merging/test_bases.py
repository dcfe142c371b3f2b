"""One base model under several names, and several under one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from adapter_inputs import random_adapter

from bench.errors import ConfigError
from bench.merging import merge
from bench.merging.bases import canonical_name


def on(name: str | None, seed: int = 1, **peft):
    adapter = random_adapter(seed)
    config = replace(adapter.config, base_model=name, peft={**adapter.config.peft, **peft})
    return replace(adapter, config=config)


def merges(one: str, two: str) -> bool:
    try:
        merge([on(one), on(two, 2)], "task-arithmetic")
    except ConfigError:
        return False
    return True


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_spellings_of_a_name_on_a_hub():
    assert merges("Qwen/Qwen2-7B", "qwen/Qwen2-7B")
    assert merges("Qwen/Qwen2-7B/", "Qwen/Qwen2-7B")
    assert not merges("Qwen/Qwen2-7B", "Qwen/Qwen2-7B-Instruct")
    assert not merges("Qwen/Qwen2-7B", "other/Qwen2-7B")
    assert canonical_name("gpt2") == "gpt2"
    assert canonical_name("/") == "/"
    assert canonical_name("a\0b") == "a\0b"


def test_spellings_of_a_folder(model, monkeypatch):
    link = model.parent / "link"
    link.symlink_to(model)
    monkeypatch.chdir(model.parent)
    for other in (f"{model}/", str(link), f"{link}/", "model", "./model"):
        assert merges(str(model), other)


def test_folders_of_equal_content_are_one_base(model):
    copy = model.parent / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "README.md").write_text("decides nothing")
    assert merges(str(model), str(copy))
    (copy / "model.safetensors").write_bytes(b"Weights")
    assert not merges(str(model), str(copy))
    (copy / "model.safetensors").unlink()
    assert not merges(str(model), str(copy))


def test_empty_folders_are_not_one_base(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not merges(str(tmp_path / "a"), str(tmp_path / "b"))


def test_every_pair_is_compared():
    """An adapter that names no base does not join two that name different ones."""
    with pytest.raises(ConfigError, match="only adapters of one base"):
        merge([on(None), on("a/b", 2), on("c/d", 3)], "task-arithmetic")


def test_different_names_can_be_taken_for_one():
    given = [on("a/b", revision="v1"), on("c/d", 2)]
    with pytest.raises(ConfigError, match="--assume-same-base"):
        merge(given, "task-arithmetic")
    merged = merge(given, "task-arithmetic", assume_same_base=True)
    assert merged.metadata["assume_same_base"]
    assert "taken for the same" in merged.metadata["warnings"][0]
    assert merged.config.base_model == "a/b"
    assert not merge(given[:1], "task-arithmetic").metadata["warnings"]
