"""PEFT folders: written and read back, and everything that must be refused by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from adapter_inputs import assert_same, changed, initialisation, random_adapter
from safetensors.torch import load_file, save_file

from bench.errors import BenchError, ConfigError, DataError, ResultError
from bench.merging import Adapter, AdapterConfig, Factors, merge, read_adapter, write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A written adapter that tests may damage."""
    path = tmp_path / "given"
    write_adapter(random_adapter(1), path)
    return path


def edit(folder, **values) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_adapter_comes_back_bit_for_bit(tmp_path, dtype):
    one = random_adapter(1, dtype=dtype)
    write_adapter(one, tmp_path / "a")
    found = read_adapter(tmp_path / "a")
    assert found.content_hash == one.content_hash
    assert found.dtype == dtype
    assert found.config.init_hash == one.config.init_hash
    assert (found.config.r, found.config.alpha) == (4, 8.0)
    assert found.config.base_model == "some/base"
    assert found.name == str(tmp_path / "a")


def test_a_merge_says_where_it_comes_from(tmp_path):
    for seed in (1, 2):
        write_adapter(random_adapter(seed), tmp_path / f"a{seed}")
    given = [read_adapter(tmp_path / f"a{seed}") for seed in (1, 2)]
    merged = merge(given, "weight-average", {"space": "product", "rank": 3})
    write_adapter(merged, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    stored = json.loads((tmp_path / "out" / "bench_adapter.json").read_text())
    from bench.io import sha256_file

    for one in (1, 2):
        digest = sha256_file(tmp_path / f"a{one}" / WEIGHTS)
        assert digest in card
        assert digest in [given["sha256"] for given in stored["inputs"]]
    assert "weight-average" in card
    assert "--max-lora-rank 8" in card
    assert "Relative Frobenius error" in card
    assert stored["truncation"] == merged.metadata["truncation"]
    assert card.startswith("---\nlibrary_name: peft\n")


def test_the_card_names_a_rank_that_vllm_knows():
    from bench.merging import vllm_rank

    assert [vllm_rank(r) for r in (1, 8, 9, 48, 64, 65, 512)] == [8, 8, 16, 64, 64, 128, 512]
    assert vllm_rank(513) is None


def test_an_existing_folder_is_not_overwritten(folder):
    before = read_adapter(folder).content_hash
    with pytest.raises(ResultError, match="already exists"):
        write_adapter(random_adapter(2), folder)
    assert read_adapter(folder).content_hash == before
    write_adapter(random_adapter(2), folder, replace=True)
    assert read_adapter(folder).content_hash == random_adapter(2).content_hash
    assert [path.name for path in folder.parent.iterdir()] == ["given"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(adapter):
        raise OSError("disk full")

    monkeypatch.setattr("bench.merging.folders.describe", fail)
    with pytest.raises(OSError, match="disk full"):
        write_adapter(random_adapter(1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias='none'"),
        ({"lora_bias": True}, "bias of its own"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"target_parameters": ["experts"]}, "parameters are adapted"),
        ({"trainable_token_indices": [3]}, "embedding"),
        ({"layer_replication": [[0, 1]]}, "repeated"),
        ({"fan_in_fan_out": True}, "Conv1D"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"init_lora_weights": "loftq"}, "changes the base weights"),
        ({"kasa_config": {"beta": 0.1}}, "cuts the base weights"),
        ({"monteclora_config": {"num_samples": 4}}, "draws noise"),
        ({"peft_type": "LOHA"}, "only LORA"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_kinds_of_adapters_are_refused_by_name(folder, values, message):
    edit(folder, **values)
    with pytest.raises(ConfigError, match=message) as caught:
        read_adapter(folder)
    assert str(folder / CONFIG) in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"r": 0},
        {"r": 2.5},
        {"r": "4"},
        {"r": True},
        {"r": 10**9},
        {"r": None},
        {"lora_alpha": 0},
        {"lora_alpha": None},
        {"lora_alpha": -1e300},
        {"lora_alpha": 1e300},
        {"alpha_pattern": {"q_proj": 1e30}},
        {"base_model_name_or_path": ["some/base"]},
        {"revision": ["main"]},
        {"task_type": {"a": 1}},
        {"target_modules": {"a": 1}},
        {"target_modules": [["q_proj"]]},
        {"init_lora_weights": ["gaussian"]},
        {"bias": ["none"]},
        {"use_rslora": "yes"},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"q_proj": -1}},
        {"rank_pattern": {"q_proj(": 4}},
        {"rank_pattern": {"(" * 5000 + ")" * 5000: 4}},
        {"rank_pattern": {"q{99999999999}": 4}},
        {"alpha_pattern": {"q_proj": "8"}},
    ],
    ids=lambda values: f"{next(iter(values))}-{str(values)[:40]}" if values else "",
)
def test_damaged_values_are_named_with_file_and_key(folder, values):
    edit(folder, **values)
    with pytest.raises(DataError, match=f"{CONFIG}: {next(iter(values))}.* expected") as caught:
        read_adapter(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", "{", "[" * 5000, f'{{"r": {10**400}}}', '{"lora_alpha": Infinity}']
)
def test_configurations_that_are_no_objects_are_named(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(DataError, match=CONFIG):
        read_adapter(folder)


@pytest.mark.parametrize("values", [{"init_hash": ["a"]}, {"base_hash": 7}], ids=str)
def test_a_damaged_origin_is_named(folder, values):
    path = folder / "bench_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(DataError, match=rf"bench_adapter\.json: {next(iter(values))}.* expected"):
        read_adapter(folder)


def test_a_rank_that_the_weights_do_not_have_is_named(folder):
    edit(folder, r=8, lora_alpha=16)
    with pytest.raises(ConfigError, match="the rank being 8"):
        read_adapter(folder)


def test_missing_files_and_folders_are_named(folder, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_adapter(tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"no adapter_model\.safetensors"):
        read_adapter(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(DataError, match=r"adapter_config\.json and no adapter_model"):
        read_adapter(folder)


def test_nothing_in_a_pickle_runs(folder):
    ran = folder / "ran"
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(f"cos\nmkdir\n(S'{ran}'\ntR.".encode())
    with pytest.raises(DataError, match=r"adapter_model\.bin: cannot be read"):
        read_adapter(folder)
    assert not ran.exists()


def test_tensors_of_an_older_file_are_read(folder):
    expected = read_adapter(folder)
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    found = read_adapter(folder)
    assert found.content_hash == expected.content_hash
    assert found.sha256 != expected.sha256


def test_keys_with_the_name_of_the_adapter_are_read(folder):
    expected, tensors = read_adapter(folder), load_file(folder / WEIGHTS)
    renamed = {name.replace(".weight", ".default.weight"): one for name, one in tensors.items()}
    save_file(renamed, folder / WEIGHTS)
    assert read_adapter(folder).content_hash == expected.content_hash
    save_file({**tensors, min(renamed): renamed[min(renamed)].clone()}, folder / WEIGHTS)
    with pytest.raises(DataError, match="twice"):
        read_adapter(folder)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_several_formats_in_one_file_are_read_exactly(folder, short):
    tensors = load_file(folder / WEIGHTS)
    mixed = {name: one.to(short) if "lora_A" in name else one for name, one in tensors.items()}
    save_file(mixed, folder / WEIGHTS)
    found = read_adapter(folder)
    assert found.dtype == torch.float32
    for module, pair in found.factors.items():
        stem = f"base_model.model.{module}.lora_"
        assert torch.equal(pair.a, mixed[f"{stem}A.weight"].float())
        assert torch.equal(pair.b, mixed[f"{stem}B.weight"])


@pytest.mark.parametrize("short", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64], ids=str)
def test_formats_that_are_not_computed_with_become_float32(folder, short):
    tensors = {name: one.to(short) for name, one in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    found = read_adapter(folder)
    module, pair = next(iter(found.factors.items()))
    assert found.dtype == torch.float32
    expected = tensors[f"base_model.model.{module}.lora_A.weight"].float()
    assert torch.equal(pair.a, expected)
    merged = merge([found, found], "weight-average", {"space": "product"})
    assert_same(merged, found)


def test_numbers_that_are_no_weights_are_named(folder):
    tensors = {name: one.to(torch.int8) for name, one in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"lora_A\.weight is of dtype int8"):
        read_adapter(folder)


def test_cut_and_foreign_files_are_named(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_adapter(folder)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_adapter(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(BenchError, match="not valid JSON"):
        read_adapter(folder)


def test_tensors_that_are_no_linear_factors_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    for extra, shape in [
        ("base_model.model.lm_head.weight", (4, 4)),
        ("base_model.model.embed.lora_embedding_A", (4, 4)),
        ("base_model.model.conv.lora_A.weight", (4, 3, 1, 1)),
    ]:
        save_file({**tensors, extra: torch.zeros(shape)}, folder / WEIGHTS)
        with pytest.raises(ConfigError, match=extra.replace(".", r"\.")):
            read_adapter(folder)


def test_lonely_factors_and_values_that_are_not_finite_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(DataError, match="has one factor"):
        read_adapter(folder)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, folder / WEIGHTS)
    with pytest.raises(DataError, match="NaN or infinity"):
        read_adapter(folder)
    save_file({}, folder / WEIGHTS)
    with pytest.raises(DataError, match="no factors"):
        read_adapter(folder)


# What may be merged with what


def test_different_bases_are_refused():
    one, two = random_adapter(1), random_adapter(2)
    other = replace(two, config=replace(two.config, base_model="some/other"))
    with pytest.raises(ConfigError, match="'some/base', adapter-2 on 'some/other'"):
        merge([one, other], "task-arithmetic")
    revised = [
        replace(one, config=replace(one.config, peft={"revision": revision}))
        for revision in ("v1", "v2")
    ]
    with pytest.raises(ConfigError, match="revision v1"):
        merge(revised, "task-arithmetic")


def test_content_hashes_of_bases_win_over_names():
    def on(adapter, name, digest):
        return replace(adapter, config=replace(adapter.config, base_model=name, base_hash=digest))

    one, two = random_adapter(1), random_adapter(2)
    merged = merge([on(one, "a", "x" * 64), on(two, "b", "x" * 64)], "weight-average")
    assert merged.config.base_hash == "x" * 64
    with pytest.raises(ConfigError, match="only adapters of one base"):
        merge([on(one, "a", "x" * 64), on(two, "a", "y" * 64)], "weight-average")


def test_an_unknown_base_is_announced():
    one, two = random_adapter(1), random_adapter(2)
    unknown = replace(two, config=replace(two.config, base_model=None))
    merged = merge([unknown, one], "weight-average")
    assert "no base model is named" in merged.metadata["warnings"][0]
    assert merged.config.base_model == "some/base"


def test_different_modules_are_refused_for_factors_and_sizes_always():
    one, two = random_adapter(1), random_adapter(2)
    fewer = replace(two, factors=dict(list(two.factors.items())[1:]))
    for pair in ([one, fewer], [fewer, one]):
        with pytest.raises(ConfigError, match=r"adapter-1 adapts .*down_proj, adapter-2 does not"):
            merge(pair, "weight-average")
    wider = changed(two, lambda _, pair: (torch.cat([pair.a, pair.a], dim=1), pair.b))
    with pytest.raises(ConfigError, match="has size"):
        merge([one, wider], "task-arithmetic")


FACTOR_METHODS = [("weight-average", {}), ("ties", {}), ("dare", {}), ("lora-lego", {})]


@pytest.mark.parametrize(("method", "config"), FACTOR_METHODS)
def test_mixed_and_unknown_initialisations_are_refused_for_factors(method, config):
    one, other = random_adapter(1), random_adapter(2, start=7)
    unknown = replace(one, config=replace(one.config, init_hash=None))
    with pytest.raises(ConfigError, match=r"start-99, adapter-2 from start-7"):
        merge([one, other], method, config)
    with pytest.raises(ConfigError, match="initialisation is unknown"):
        merge([one, unknown], method, config)
    for pair in ([one, other], [one, unknown]):
        merged = merge(pair, method, config, assume_shared_init=True)
        assert merged.metadata["assume_shared_init"]
        assert merged.config.init_hash is None


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("weight-average", {"space": "product"}),
        ("task-arithmetic", {}),
        ("ties", {"space": "product"}),
        ("dare", {"space": "product"}),
        ("ext-sub", {}),
    ],
)
def test_products_merge_whatever_the_initialisation(method, config):
    one, other = random_adapter(1), random_adapter(2, start=7)
    unknown = replace(other, config=replace(other.config, init_hash=None))
    assert merge([one, unknown], method, config).modules == one.modules


def test_factors_of_different_ranks_are_refused():
    with pytest.raises(ConfigError, match="rank 4, adapter-2 rank 3"):
        merge([random_adapter(1), random_adapter(2, r=3)], "weight-average")


def test_the_initialisation_must_be_that_of_the_adapters():
    given = [random_adapter(1), random_adapter(2)]
    config = {"factor_reference": "init"}
    with pytest.raises(ConfigError, match="needs the common initialisation"):
        merge(given, "ties", config)
    with pytest.raises(ConfigError, match="is not used"):
        merge(given, "ties", {}, init=initialisation())
    with pytest.raises(ConfigError, match="start-7"):
        merge(given, "ties", config, init=initialisation(7))
    with pytest.raises(ConfigError, match="was trained"):
        merge(given, "ties", config, init=random_adapter(3))
    with pytest.raises(ConfigError, match="rank"):
        merge(given, "ties", config, init=initialisation(r=5))
    with pytest.raises(ConfigError, match="factor_reference=zero in product space"):
        merge(given, "ties", {**config, "space": "product"}, init=initialisation())


# Options


def test_unknown_methods_and_options_get_suggestions():
    given = [random_adapter(1)]
    with pytest.raises(ConfigError, match=r"Did you mean 'ties'"):
        merge(given, "tie")
    with pytest.raises(ConfigError, match=r"Did you mean 'density'"):
        merge(given, "ties", {"densty": 0.1})
    with pytest.raises(ConfigError, match="space: found 'both'"):
        merge(given, "ties", {"space": "both"})
    with pytest.raises(ConfigError, match="no rank in factor space"):
        merge(given, "weight-average", {"rank": 4})
    with pytest.raises(ConfigError, match="expected TiesConfig"):
        from bench.merging import DareConfig

        merge(given, "ties", DareConfig())
    with pytest.raises(ConfigError, match="no adapter to merge"):
        merge([], "ties")


def test_adapters_that_make_no_sense_are_refused():
    a, b = torch.zeros(2, 3), torch.zeros(4, 2)
    config = AdapterConfig(2, 4.0)
    for factors, message in [
        ({}, "no adapted module"),
        ({"m": Factors(a, b.T)}, "expected"),
        ({"m": Factors(a, b.half())}, "dtypes torch.float16, torch.float32"),
        ({"m": Factors(a.int(), b.int())}, "floating-point"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Adapter(factors, config)
    with pytest.raises(ConfigError, match="positive, finite alpha"):
        Adapter({"m": Factors(a, b)}, AdapterConfig(2, float("nan")))


def test_configurations_are_frozen_and_round_trip_through_json():
    from bench.merging import MERGERS, make_config

    for name in MERGERS:
        config = make_config(name)
        assert make_config(name, json.loads(config.model_dump_json())) == config
        assert type(config).__doc__
        with pytest.raises(ValueError, match="frozen"):
            config.seed = 1


def test_what_is_written_can_be_merged_again(tmp_path):
    given = [random_adapter(seed) for seed in range(3)]
    inner = merge(given[:2], "weight-average", {"weights": [0.5, 0.5]})
    write_adapter(inner, tmp_path / "inner")
    again = merge(
        [read_adapter(tmp_path / "inner"), given[2]], "weight-average", {"weights": [2 / 3, 1 / 3]}
    )
    assert_same(again, merge(given, "weight-average"))
