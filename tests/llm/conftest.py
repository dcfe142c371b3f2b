from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_backbone

from bench.llm.adapters import AdapterStore


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a chat tokenizer."""
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Qwen2 with a chat tokenizer."""
    return tiny_backbone(tmp_path_factory.mktemp("tiny") / "qwen2", "qwen2", seed=1)


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """An empty store of adapters."""
    return AdapterStore(tmp_path / "adapters")
