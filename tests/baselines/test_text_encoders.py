"""Text encoders: names, folders, loading, and vectors against transformers used by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import tiny_encoder

from bench import assets
from bench.baselines.text import (
    encode_texts,
    load_encoder_model,
    require_encoder,
    resolve_encoder,
    unit_rows,
    vectors,
)
from bench.errors import BenchError, ConfigError, MissingExtraError, ResultError
from bench.io import cache_root, read_json, sha256_file, write_json
from bench.sealed import locate, remove

pytestmark = pytest.mark.usefixtures("fresh_cache")

TEXTS = (
    "blue shampoo",
    "the hand cream of star wars number 12, large pack",
    "",
    "blue shampoo",
    "Ünïcode 東京",
    "x" * 400,
    *(f"green toy {number} {'set ' * (number % 7)}" for number in range(40)),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        "bert": tiny_encoder(root / "bert"),
        "longformer": tiny_encoder(root / "longformer", architecture="longformer"),
    }


@pytest.fixture
def own(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may damage."""
    return shutil.copytree(folders["bert"], tmp_path / "own")


def by_hand(folder: Path, texts: list[str], pooling: str, max_tokens: int) -> np.ndarray:
    """One padded batch through transformers; pooled as sentence-transformers does."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    if pooling == "cls":
        return states[:, 0].numpy()
    mask = inputs["attention_mask"][..., None].float()
    return ((states * mask).sum(1) / mask.sum(1)).numpy()


# --- vectors


@pytest.mark.parametrize("architecture", ["bert", "longformer"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_a_padded_batch_by_hand(folders, architecture, pooling) -> None:
    folder = folders[architecture]
    found = encode_texts(TEXTS, encoder=str(folder), pooling=pooling, max_tokens=16)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 32)
    expected = by_hand(folder, list(TEXTS), pooling, 16)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.std(expected, axis=0).min() > 1e-3  # the texts do differ


def test_minilm_has_the_vectors_of_sentence_transformers_by_hand(monkeypatch) -> None:
    monkeypatch.undo()  # the asset lies in the user's cache
    if not assets.is_present("all-minilm-l6-v2"):
        pytest.skip("all-MiniLM-L6-v2 is absent: run `bench assets pull all-minilm-l6-v2`")
    encoder = resolve_encoder("all-minilm-l6-v2")
    modules = json.loads((encoder.folder / "modules.json").read_text())
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    assert encoder.pooling == "mean"
    texts = ["Dove Body Wash, 18 oz", "Neutrogena Hand Cream", "Toy Story (1995)", "a " * 200]
    pooled = by_hand(encoder.folder, texts, "mean", 64)
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    found = encode_texts(texts)
    np.testing.assert_allclose(unit_rows(found), expected, rtol=0, atol=1e-5)
    norms = np.linalg.norm(found, axis=1)
    assert np.abs(norms - 1).min() > 0.1  # the norm is not taken before `unit_rows`


def test_equal_texts_are_encoded_once_and_nothing_is_padded(folders, monkeypatch) -> None:
    seen = []

    def watched(model, ids, pooling):
        seen.append(ids)
        return original(model, ids, pooling)

    original = vectors._pooled
    monkeypatch.setattr(vectors, "_pooled", watched)
    found = encode_texts([*TEXTS, *TEXTS], encoder=str(folders["bert"]))
    assert sum(len(ids) for ids in seen) == len(set(TEXTS))
    assert all((ids != 0).all() for ids in seen)  # id 0 pads
    np.testing.assert_array_equal(found[: len(TEXTS)], found[len(TEXTS) :])
    np.testing.assert_array_equal(found[0], found[3])


def test_a_vector_does_not_depend_on_the_other_texts(folders) -> None:
    together = encode_texts(TEXTS, encoder=str(folders["bert"]))
    order = np.random.default_rng(0).permutation(len(TEXTS))[:20]
    some = encode_texts([TEXTS[i] for i in order], encoder=str(folders["bert"]))
    np.testing.assert_allclose(some, together[order], rtol=0, atol=1e-5)


def test_tokens_beyond_the_limit_are_not_read(folders) -> None:
    long, cut = "a b c d e f g h", "a b c d e f"
    name = str(folders["bert"])
    first, second = encode_texts([long, cut], encoder=name, max_tokens=8)
    np.testing.assert_array_equal(first, second)
    first, second = encode_texts([long, cut], encoder=name, max_tokens=9)
    assert np.abs(first - second).max() > 1e-3


def test_a_text_without_tokens_is_a_zero_vector(own: Path) -> None:
    plain = json.loads((own / "tokenizer.json").read_text())
    plain["post_processor"] = None  # no special tokens, as in most language models
    (own / "tokenizer.json").write_text(json.dumps(plain))
    found = encode_texts(["", "blue"], encoder=str(own))
    assert not found[0].any()
    assert found[1].any()
    assert unit_rows(found)[0].tolist() == [0] * 32


def test_no_text_at_all_is_an_empty_array(folders) -> None:
    for _ in range(2):
        assert encode_texts([], encoder=str(folders["bert"])).shape == (0, 32)


def test_half_precision_is_near(folders) -> None:
    full, half = (
        encode_texts(TEXTS, encoder=str(folders["bert"]), dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == np.float32
    difference = np.abs(full - half).max()
    assert 0 < difference < 0.2


def test_unit_rows_have_norm_one() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 100
    rows[3] = 0
    unit = unit_rows(rows)
    assert unit.dtype == np.float32
    expected = np.ones(50)
    expected[3] = 0
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), expected, atol=1e-6)
    np.testing.assert_allclose(unit[0] * np.linalg.norm(rows[0]), rows[0], rtol=1e-5)


# --- the cache


def stored() -> list[Path]:
    return sorted(path for path in (cache_root() / "text-vectors").iterdir() if path.is_dir())


def test_the_second_call_loads_no_model_and_maps_the_file(folders, monkeypatch) -> None:
    name = str(folders["bert"])
    first = encode_texts(TEXTS, encoder=name)
    monkeypatch.setattr(vectors, "load_encoder_model", lambda *_a, **_k: pytest.fail("loaded"))
    again = encode_texts(list(TEXTS), encoder=name)
    np.testing.assert_array_equal(first, again)
    assert isinstance(again.base, np.memmap)
    assert len(stored()) == 1
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0


def test_the_key_holds_all_that_decides_the_vectors(folders, own: Path) -> None:
    name = str(folders["bert"])
    encode_texts(TEXTS, encoder=name)
    encode_texts(TEXTS, encoder=str(own))  # another folder with the same content
    assert len(stored()) == 2 and len({path.name.rpartition("-")[2] for path in stored()}) == 1
    others = (
        {"pooling": "cls"},
        {"max_tokens": 16},
        {"dtype": "bfloat16"},
        {"texts": TEXTS[::-1]},
        {"texts": TEXTS[:-1]},
        {"texts": ["".join(TEXTS[:2]), *TEXTS[2:]]},
    )
    for number, other in enumerate(others, start=3):
        encode_texts(**{"texts": TEXTS, "encoder": name, **other})
        assert len(stored()) == number, other
    encode_texts(TEXTS, encoder=name, pooling="mean")  # what it would have taken anyway
    assert len(stored()) == 2 + len(others)


def test_other_weights_are_another_encoder(own: Path) -> None:
    first = encode_texts(TEXTS, encoder=str(own))
    before = resolve_encoder(str(own)).content_hash
    tiny_encoder(own, seed=1)
    assert resolve_encoder(str(own)).content_hash != before
    assert np.abs(encode_texts(TEXTS, encoder=str(own)) - first).max() > 0.1


@pytest.mark.parametrize("damage", ["cut", "flipped", "no numbers", "no record", "bad record"])
def test_a_damaged_entry_is_refused_until_it_is_removed(folders, damage: str) -> None:
    name = str(folders["bert"])
    expected = np.array(encode_texts(TEXTS, encoder=name))
    [folder] = stored()
    file, record = folder / "vectors.npy", folder / "vectors.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    elif damage == "no numbers":
        file.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("[]")
    with pytest.raises(ResultError, match=f"damaged.*bench cache rm {folder.name}"):
        encode_texts(TEXTS, encoder=name)
    remove(locate(folder.name))
    np.testing.assert_array_equal(encode_texts(TEXTS, encoder=name), expected)
    assert stored() == [folder]


def test_an_entry_of_an_earlier_version_is_judged_by_its_record(folders) -> None:
    name = str(folders["bert"])
    expected = np.array(encode_texts(TEXTS, encoder=name))
    [folder] = stored()
    file, record = folder / "vectors.npy", folder / "vectors.json"
    (folder / "seal.json").unlink()
    write_json(record, {**read_json(record), "vectors_sha256": sha256_file(file)})
    np.testing.assert_array_equal(encode_texts(TEXTS, encoder=name), expected)
    (folder / "seal.json").unlink()
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ResultError, match="was changed"):
        encode_texts(TEXTS, encoder=name)


def test_an_interrupted_pass_leaves_nothing(folders, monkeypatch) -> None:
    name, original = str(folders["bert"]), vectors._pooled
    calls = iter(range(3))

    def stop(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(vectors, "_pooled", stop)
        with pytest.raises(KeyboardInterrupt):
            encode_texts(TEXTS, encoder=name)
    assert list((cache_root() / "text-vectors").iterdir()) == []
    assert len(encode_texts(TEXTS, encoder=name)) == len(TEXTS)


def test_two_processes_at_once_make_one_whole_entry(folders, tmp_path: Path) -> None:
    program = (
        "import sys, hashlib, torch\n"
        "torch.set_num_threads(1)\n"
        "from bench.baselines.text import encode_texts\n"
        "found = encode_texts([f'toy {i}' for i in range(300)], encoder=sys.argv[1])\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, str(folders["bert"])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    # Neither bars nor warnings: one of them may tell that it waits, and nothing else.
    told = [line for _, errors in outputs for line in errors.splitlines()]
    assert all(line.startswith("waiting for another process") for line in told)
    assert len(stored()) == 1


# --- names and folders


def test_the_asset_that_is_absent_names_its_command() -> None:
    for function in (require_encoder, resolve_encoder):
        with pytest.raises(MissingExtraError, match="bench assets pull all-minilm-l6-v2"):
            function("all-minilm-l6-v2")
    with pytest.raises(MissingExtraError, match="bench assets pull all-minilm-l6-v2"):
        encode_texts(["a"])


def test_missing_packages_are_named_with_the_extra(folders, monkeypatch) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "transformers" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"transformers\. .*weavebench\[llm\]"):
        require_encoder(str(folders["bert"]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("all-minilm", ["Did you mean 'all-minilm-l6-v2'", "Hugging Face id"]),
        ("./not/there", ["there is no folder", "not/there"]),
        ("a/b/c", ["there is no folder"]),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, words: list[str]) -> None:
    for function in (require_encoder, resolve_encoder):
        with pytest.raises(ConfigError) as caught:
            function(name)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_pickled_weights_are_refused(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin only.*can run code"):
        encode_texts(["a"], encoder=str(own))


def test_a_model_of_the_hubs_cache_needs_no_network(folders, tmp_path: Path) -> None:
    """The real client, offline, over a cache as it writes it; then without the model."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--encoder"
    shutil.copytree(folders["bert"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    pooling = repository / "snapshots" / commit / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    program = (
        "import sys\n"
        "from bench.baselines.text import resolve_encoder\n"
        "from bench.errors import BenchError\n"
        "found = resolve_encoder('some/encoder')\n"
        "print(found.pooling, found.content_hash)\n"
        "try:\n"
        "    resolve_encoder('some/other')\n"
        "except BenchError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == f"cls {resolve_encoder(str(folders['bert'])).content_hash}"
    assert "hf download some/other" in second


def test_pooling_is_read_from_the_folder(own: Path) -> None:
    assert resolve_encoder(str(own)).pooling == "mean"
    (own / "1_Pooling").mkdir()
    file = own / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert resolve_encoder(str(own)).pooling == "cls"
    np.testing.assert_array_equal(
        encode_texts(TEXTS, encoder=str(own)),
        encode_texts(TEXTS, encoder=str(own), pooling="cls"),
    )
    file.write_text("{")
    with pytest.raises(ConfigError, match="1_Pooling"):
        resolve_encoder(str(own))


# --- loading


def test_loading_changes_no_random_state_and_says_nothing(folders, capfd) -> None:
    encoder = resolve_encoder(str(folders["bert"]))
    load_encoder_model(encoder)  # imports
    capfd.readouterr()
    torch.manual_seed(3)
    before = torch.get_rng_state().clone(), torch.get_num_threads()
    model, tokenizer = load_encoder_model(encoder)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert capfd.readouterr() == ("", "")
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.padding_side == "right"


def test_a_checkpoint_without_the_unused_pooler_loads(own: Path) -> None:
    expected = np.array(encode_texts(TEXTS, encoder=str(own)))
    tensors = load_file(own / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, own / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(encode_texts(TEXTS, encoder=str(own)), expected)
    model, _ = load_encoder_model(resolve_encoder(str(own)))
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_a_checkpoint_that_lacks_a_tensor_is_refused(own: Path) -> None:
    tensors = load_file(own / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("query.weight"))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != lost},
        own / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ConfigError, match=r"lack 1 tensors.*query\.weight"):
        load_encoder_model(resolve_encoder(str(own)))


def test_a_damaged_weight_file_is_refused(own: Path) -> None:
    (own / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ConfigError, match="damaged"):
        load_encoder_model(resolve_encoder(str(own)))


def test_a_model_with_a_decoder_is_refused(own: Path) -> None:
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=120, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(own)
    with pytest.raises(ConfigError, match="has a decoder as well"):
        load_encoder_model(resolve_encoder(str(own)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"max_tokens": 2}, "max_tokens=2: expected 3 or more"),
        ({"max_tokens": 513}, "reads at most 512 tokens"),
    ],
)
def test_options_out_of_range_are_refused(folders, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_texts(["a"], encoder=str(folders["bert"]), **options)
    assert not (cache_root() / "text-vectors").exists() or stored() == []


def test_a_full_disk_is_noticed_before_the_work(folders, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(BenchError, match="MB free"):
        encode_texts(TEXTS, encoder=str(folders["bert"]))


def test_naming_an_encoder_imports_neither_torch_nor_transformers(folders) -> None:
    program = (
        "import sys\n"
        "from bench.baselines.text import require_encoder\n"
        "require_encoder(sys.argv[1])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folders["bert"])], check=True, timeout=200)
