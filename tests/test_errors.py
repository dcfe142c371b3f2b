"""What the exceptions of libraries say of the system."""

from __future__ import annotations

import errno
import resource

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from bench.errors import (
    MissingExtraError,
    ResultError,
    cause,
    missing_package,
    require_packages,
    system_error,
)
from bench.llm.adapter_files import may_pass
from bench.validation import method_phase


@pytest.fixture
def small_files():
    """Files larger than 1,000 bytes cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_safetensors(path):
    save_file({"a": torch.zeros(10_000)}, path)


def write_csv(path):
    pl.DataFrame({"a": range(10_000)}).write_csv(path)


def write_parquet(path):
    pl.DataFrame({"a": torch.rand(10_000).numpy()}).write_parquet(path)


def write_bytes(path):
    path.write_bytes(b"x" * 10_000)


@pytest.mark.parametrize("write", [write_safetensors, write_csv, write_parquet, write_bytes])
def test_a_disk_that_refuses_is_known_whichever_library_meets_it(tmp_path, small_files, write):
    with pytest.raises(Exception, match=r"(?i)too large") as caught:
        write(tmp_path / "file")
    assert system_error(caught.value).errno == errno.EFBIG
    assert may_pass(caught.value)
    with pytest.raises(OSError, match="too large") as phase, method_phase("m", "save"):
        write(tmp_path / "file")
    assert system_error(phase.value).errno == errno.EFBIG


@pytest.mark.parametrize("error", [ValueError("x"), OSError("no number"), ResultError("os error")])
def test_other_exceptions_are_none_of_the_system(error):
    assert system_error(error) is None


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("torch.nn", "'weavebench[models]', or 'weavebench[llm]' for methods that read texts ("),
        ("sklearn.cluster", "'weavebench[models]' ("),
        ("transformers", "'weavebench[llm]' ("),
        ("some_plugin_needs", "some-plugin-needs ("),
    ],
)
def test_a_missing_package_is_told_with_what_brings_it(module, command):
    error = missing_package(ModuleNotFoundError("No module", name=module))
    assert f"Install it with: pip install {command}docs/install.md)" in str(error)
    assert missing_package(ModuleNotFoundError("No module", name="bench.nowhere")) is None


def test_foreign_code_that_lacks_a_package_of_an_extra_is_told_which():
    told = cause(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert told.startswith(
        "ModuleNotFoundError: No module named 'torch' (pip install 'weavebench[models]'"
    )
    assert (
        cause(ModuleNotFoundError("No module", name="neighbour"))
        == "ModuleNotFoundError: No module"
    )
    assert cause(ValueError("torch")) == "ValueError: torch"


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    require_packages("arrays", "numpy")
    with pytest.raises(MissingExtraError, match=r"not installed: vllm\. .*weavebench\[vllm\]"):
        require_packages("arrays", "numpy", "vllm")
