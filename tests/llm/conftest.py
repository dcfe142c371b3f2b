from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_backbone

from bench.llm.adapters import AdapterStore
from bench.llm.backbones import Backbone, resolve_backbone


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a chat tokenizer."""
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Qwen2 with a chat tokenizer."""
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "qwen2", "qwen2", seed=1)


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Mistral without a sliding window, with a chat tokenizer."""
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "mistral", "mistral", seed=5)


@pytest.fixture
def backbone(tiny_llama: Path) -> Backbone:
    """That Llama, resolved."""
    return resolve_backbone(str(tiny_llama))


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """An empty store of adapters."""
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes with one thread; for the tests of a file that asks for it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
