"""``bench merge`` on folders as other tools write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.io import cache_root, write_json
from bench.llm.adapter_files import FORMAT, METADATA, peft_files

SIZES = {"model.layers.0.self_attn.q_proj": (6, 8), "model.layers.0.mlp.up_proj": (9, 8)}
RANK = 2


def write_foreign(folder, seed: int, **config) -> None:
    """A folder with the keys PEFT always writes, and none of ours."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_out, d_in) in SIZES.items():
        for half, shape in (("A", (RANK, d_in)), ("B", (d_out, RANK))):
            key = f"base_model.model.{module}.lora_{half}.weight"
            tensors[key] = torch.randn(shape, generator=draw)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {
        "peft_type": "LORA",
        "base_model_name_or_path": "some/base",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "up_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | config))


@pytest.fixture
def foreign(tmp_path):
    folders = [tmp_path / name for name in ("alpha", "beta", "gamma")]
    for seed, folder in enumerate(folders):
        write_foreign(folder, seed)
    return folders


def update(folder, module: str) -> torch.Tensor:
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    a, b = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
    return config["lora_alpha"] / config["r"] * b @ a


def test_products_of_foreign_adapters_are_averaged(cli, foreign, tmp_path):
    out = tmp_path / "out"
    done = cli(
        "merge", *foreign, "--method", "weight-average", "--set", "space=product",
        "--weights", "0.5,0.25,0.25", "--out", out,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["rank 6", "vLLM: --max-lora-rank 8"]
    for module in SIZES:
        first, second, third = (update(folder, module) for folder in foreign)
        expected = 0.5 * first + 0.25 * second + 0.25 * third
        torch.testing.assert_close(update(out, module), expected)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "bench_adapter.json",
    ]  # fmt: skip


def test_ties_takes_its_options_and_says_what_truncation_cost(cli, foreign, tmp_path):
    options = ["--set", "density=0.5", "--set", "space=product", "--set", "rank=2", "--seed", 3]
    done = cli("merge", *foreign, "--method", "ties", *options, "--out", tmp_path / "out", "--json")
    found = json.loads(done.stdout)
    assert (found["r"], found["seed"], found["config"]["density"]) == (2, 3, 0.5)
    assert [one["name"] for one in found["inputs"]] == [str(folder) for folder in foreign]
    assert 0 < found["truncation"]["relative_error"] < 1
    done = cli("merge", *foreign, "--method", "ties", *options, "--out", tmp_path / "again")
    assert f"{found['truncation']['relative_error']:.3g}" in done.stdout
    one, two = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "again")
    )
    assert one == two


def test_factors_of_foreign_adapters_need_the_users_word(cli, foreign, tmp_path):
    out = tmp_path / "out"
    words = ["merge", *foreign, "--method", "weight-average", "--out", out]
    refused = cli(*words, code=2)
    assert "--assume-shared-init" in refused.stderr
    assert not out.exists()
    cli(*words, "--assume-shared-init")
    assert json.loads((out / "adapter_config.json").read_text())["r"] == RANK


def test_an_initialisation_may_be_given(cli, foreign, tmp_path):
    start = tmp_path / "start"
    write_foreign(start, 9)
    tensors = load_file(start / "adapter_model.safetensors")
    zeroed = {key: value * ("lora_A" in key) for key, value in tensors.items()}
    save_file(zeroed, start / "adapter_model.safetensors")
    cli(
        "merge", *foreign, "--method", "dare", "--set", "factor_reference=init", "--init", start,
        "--assume-shared-init", "--out", tmp_path / "out",
    )  # fmt: skip
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "tie"], "Did you mean 'ties'"),
        (["--method", "ties", "--set", "densty=0.2"], "Did you mean 'density'"),
        (["--method", "ties", "--set", "density=20"], "density: found 20"),
        (["--method", "ties", "--weights", "1,1,1"], "no option 'weights'"),
        (["--method", "dare", "--weights", "a,b"], "expected numbers"),
        (["--method", "dare", "--weights", "1", "--set", "weights=[1]"], "give one of them"),
        (["--method", "task-arithmetic", "--weights", "1,2"], "2 weights for 3 adapters"),
        (["--method", "ext-sub", "--dtype", "float8"], "unknown number format 'float8'"),
    ],
)
def test_wrong_use_is_exit_code_2_and_writes_nothing(cli, foreign, tmp_path, words, message):
    refused = cli("merge", *foreign, *words, "--out", tmp_path / "out", code=2)
    assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_refusals_name_the_file(cli, foreign, tmp_path):
    write_foreign(tmp_path / "dora", 5, use_dora=True)
    words = ["merge", foreign[0], tmp_path / "dora", "--method", "ext-sub", "--out", tmp_path / "o"]
    assert str(tmp_path / "dora" / "adapter_config.json") in cli(*words, code=2).stderr
    words[2] = tmp_path / "nowhere"
    assert "no such folder" in cli(*words, code=1).stderr


def test_another_name_of_the_base_is_taken_on_the_users_word(cli, foreign, tmp_path):
    write_foreign(tmp_path / "renamed", 5, base_model_name_or_path="other/name")
    words = [
        "merge",
        foreign[0],
        tmp_path / "renamed",
        "--method",
        "ext-sub",
        "--out",
        tmp_path / "o",
    ]
    assert "--assume-same-base" in cli(*words, code=2).stderr
    done = cli(*words, "--assume-same-base", "--dtype", "bfloat16")
    assert "note: the adapters name different base models" in done.stderr
    tensors = load_file(tmp_path / "o" / "adapter_model.safetensors")
    assert {one.dtype for one in tensors.values()} == {torch.bfloat16}


def test_an_existing_folder_is_kept(cli, foreign, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    words = ["merge", *foreign, "--method", "ext-sub", "--out", out]
    assert "already exists" in cli(*words, code=1).stderr
    assert (out / "mine.txt").read_text() == "keep me"


def keep(folder, adapter_id: str):
    """The adapter of a foreign folder in the store, under an id of our choice."""
    place = cache_root() / "adapters" / adapter_id
    shutil.copytree(folder, place)
    metadata = {
        "format": FORMAT,
        "adapter_id": adapter_id,
        "kind": "trained",
        "label": "toy",
        "recipe": {},
        "lineage": [],
        "cost": {"seconds": 1.0, "cpu_seconds": 1.0, "tokens": 0, "attempts": 1},
        "files": peft_files(place, "toy"),
    }
    write_json(place / METADATA, metadata)
    return place


def test_stored_adapters_are_named_by_their_first_digits(cli, foreign, tmp_path):
    first = keep(foreign[0], "abcd1234abcd1234")
    keep(foreign[1], "beef5678beef5678")
    words = ["--method", "weight-average", "--set", "space=product"]
    cli("merge", "abcd", "beef5678beef5678", *words, "--out", tmp_path / "by-id")
    cli("merge", *foreign[:2], *words, "--out", tmp_path / "by-folder")
    for module in SIZES:
        assert torch.equal(
            update(tmp_path / "by-id", module), update(tmp_path / "by-folder", module)
        )
    refused = cli("merge", "abce", "beef", *words, "--out", tmp_path / "no", code=2)
    assert "abce is no folder" in refused.stderr and "Did you mean" not in refused.stderr
    # A folder of that name in the working directory is what is meant.
    write_foreign(Path("beef"), 7)
    cli("merge", "abcd", "beef", *words, "--out", tmp_path / "mixed")
    expected = (update(first, next(iter(SIZES))) + update(Path("beef"), next(iter(SIZES)))) / 2
    torch.testing.assert_close(update(tmp_path / "mixed", next(iter(SIZES))), expected)
    (first / "adapter_model.safetensors").write_bytes(b"damaged")
    damaged = cli("merge", "abcd", foreign[1], *words, "--out", tmp_path / "no", code=1)
    assert "abcd1234abcd1234" in damaged.stderr
    assert not (tmp_path / "no").exists()
