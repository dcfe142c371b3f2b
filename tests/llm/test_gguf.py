from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_gguf import write_gguf

from bench import assets
from bench.errors import ConfigError, ResultError
from bench.llm.backbones import load_model, load_tokenizer, resolve_backbone
from bench.llm.gguf import read_header
from bench.pretrained.model_folder import check_folder
from bench.sealed import locate, remove

TEXTS = ["Toy Story (1995)", "Dove Men+Care 18 oz", "a  1995", "²½ x2", "<|im_end|>\n"]


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf-cache")


@pytest.fixture
def cache(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the tests of this file, so that the tiny file is converted once."""
    monkeypatch.setenv("BENCH_CACHE", str(cache_folder))
    return cache_folder


@pytest.fixture(scope="module")
def tiny_file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    return file, write_gguf(tiny_llama, file)


def test_a_gguf_file_becomes_the_model_it_was_made_from(tiny_file, tiny_llama, cache) -> None:
    file, stored = tiny_file
    said: list[str] = []
    backbone = resolve_backbone(str(file), progress=said.append)
    assert len(said) == 1 and "tiny.Q4_1.gguf" in said[0]
    check_folder(backbone.folder, "converted")
    written = load_file(backbone.folder / "model.safetensors")
    assert written.keys() == stored.keys()
    for name, values in stored.items():
        assert written[name].dtype == torch.bfloat16
        # The nearest bfloat16, which torch finds by itself.
        assert torch.equal(written[name], torch.from_numpy(np.array(values)).bfloat16()), name
    # And with these weights, the original configuration gives the same predictions.
    reference = load_model(resolve_backbone(str(tiny_llama)))
    reference.load_state_dict({name: one.float() for name, one in written.items()}, strict=False)
    ids = torch.tensor([[1, 70, 80, 90, 300, 310, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(load_model(backbone)(ids).logits, reference(ids).logits)


def test_the_converted_tokenizer_is_the_original_one(tiny_file, tiny_llama, cache) -> None:
    found = load_tokenizer(resolve_backbone(str(tiny_file[0])))
    expected = load_tokenizer(resolve_backbone(str(tiny_llama)))
    for text in TEXTS:
        assert found.encode(text) == expected.encode(text)
        assert found.decode(found.encode(text)) == text
    assert found.chat_template == expected.chat_template
    assert found.model_max_length == 4096
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(found, name) == getattr(expected, name)


def test_it_is_converted_once_and_known_by_its_content(tiny_file, cache, tmp_path) -> None:
    first = resolve_backbone(str(tiny_file[0]))
    said: list[str] = []
    copy = tmp_path / "other-name.GGUF"
    copy.write_bytes(tiny_file[0].read_bytes())
    again = resolve_backbone(str(copy), progress=said.append)
    assert said == []
    assert (again.folder, again.content_hash) == (first.folder, first.content_hash)
    assert again.name == str(copy)


def test_a_changed_conversion_is_refused_until_it_is_removed(
    tiny_file, cache, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    folder = resolve_backbone(str(tiny_file[0])).folder
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ResultError, match=f"safetensors was changed.*bench cache rm {folder.name}"):
        resolve_backbone(str(tiny_file[0]))
    remove(locate(folder.name))
    assert (resolve_backbone(str(tiny_file[0])).folder / "model.safetensors").read_bytes() == whole


def test_a_conversion_that_fails_leaves_nothing_behind(tiny_llama, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "short.gguf"
    write_gguf(tiny_llama, file, without="blk.1.ffn_up.weight")
    with pytest.raises(ConfigError, match=r"1 tensors were not read.*up_proj"):
        resolve_backbone(str(file))
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []


def test_digits_are_split_as_the_vocabulary_was_trained(tiny_llama, tmp_path, monkeypatch) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    write_gguf(tiny_llama, tmp_path / "smol.gguf", pre="smollm")
    found = load_tokenizer(resolve_backbone(str(tmp_path / "smol.gguf")))
    # SmolLM2's published tokenizer.json has these two steps.
    expected = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    plain = {text: expected.encode(text).ids for text in TEXTS}
    expected.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    for text in TEXTS:
        assert found.encode(text) == expected.encode(text).ids
    assert any(plain[text] != found.encode(text) for text in TEXTS)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["12345", "ĠI", "'", "M"]),
        ("smollm", ["1", "2", "3", "4", "5", "ĠI", "'", "M"]),
        ("llama-bpe", ["123", "45", "ĠI", "'M"]),
        ("qwen2", ["1", "2", "3", "4", "5", "ĠI", "'M"]),
        ("deepseek-r1-qwen", ["1", "2", "3", "4", "5", "ĠI", "'M"]),
        ("tekken", ["1", "2", "3", "4", "5", "ĠI", "'M"]),
    ],
)
def test_text_is_cut_by_the_rules_that_the_file_names(tiny_llama, tmp_path, cache, pre, pieces):
    write_gguf(tiny_llama, tmp_path / "x.gguf", pre=pre)
    tokenizer = load_tokenizer(resolve_backbone(str(tmp_path / "x.gguf")))
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in splitter.pre_tokenize_str("12345 I'M")] == pieces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "some-new-rules"}, "splits text by the rules 'some-new-rules'"),
        ({"pre": None}, "splits text by the rules 'missing'"),
        ({"scaling": "yarn"}, "rotary positions are scaled"),
    ],
)
def test_what_would_be_rebuilt_wrongly_is_refused(tiny_llama, tmp_path, cache, change, message):
    write_gguf(tiny_llama, tmp_path / "x.gguf", **change)
    with pytest.raises(ConfigError, match=message):
        resolve_backbone(str(tmp_path / "x.gguf"))


def test_the_header_agrees_with_llama_cpps_reader(tiny_file) -> None:
    import gguf

    header, reader = read_header(tiny_file[0]), gguf.GGUFReader(tiny_file[0])
    assert header.tensors == tuple(tensor.name for tensor in reader.tensors)
    fields = {key: one for key, one in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata.keys() == fields.keys()
    for key, one in fields.items():
        value = one.contents()
        assert header.metadata[key] == (len(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("length", [0, 3, 8, 30, 200, 2000])
def test_a_damaged_header_is_an_error_with_the_files_name(tiny_file, tmp_path, length) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_file[0].read_bytes()[:length])
    with pytest.raises(ConfigError, match=r"cut\.gguf"):
        read_header(cut)


def test_a_header_with_wild_numbers_is_an_error_or_harmless(tiny_file, tmp_path) -> None:
    whole, refused = tiny_file[0].read_bytes()[:12_000], 0
    for position in range(0, len(whole), 97):
        data = bytearray(whole)
        data[position : position + 8] = b"\xff" * 8
        (tmp_path / "wild.gguf").write_bytes(data)
        try:
            read_header(tmp_path / "wild.gguf")
        except ConfigError as error:
            assert "wild.gguf" in str(error)
            refused += 1
    assert refused > 20


needs_smollm2 = pytest.mark.skipif(
    not assets.is_present("smollm2-135m"), reason="asset missing: bench assets pull smollm2-135m"
)


@pytest.mark.slow
@needs_smollm2
def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "backbones.md"
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    exec(example, {})
    assert capsys.readouterr().out.endswith(" Paris\n")


@pytest.mark.slow
@needs_smollm2
def test_smollm2_works_offline_and_knows_the_capital_of_france() -> None:
    code = """
import socket, sys
def refuse(*_args, **_kwargs):
    raise OSError("no network here")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
from bench.llm.backbones import load_model, load_tokenizer, resolve_backbone
backbone = resolve_backbone("smollm2-135m")
tokenizer, model = load_tokenizer(backbone), load_model(backbone, dtype=sys.argv[1])
ids = torch.tensor([tokenizer.encode("The capital of France is")])
with torch.inference_mode():
    new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3)
print(repr(tokenizer.decode(new[0, ids.shape[1]:])))
print(tokenizer.convert_ids_to_tokens(tokenizer.encode("Heat (1995)  77")))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for dtype in ("float32", "bfloat16"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, dtype],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        answer, tokens = done.stdout.splitlines()
        assert " Paris" in answer
        assert tokens == str(["Heat", "Ġ(", "1", "9", "9", "5", ")", "ĠĠ", "7", "7"])
        assert done.stderr == ""
