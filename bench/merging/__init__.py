"""LoRA adapters to one LoRA adapter, by any of :data:`MERGERS`.

Usable alone: nothing here knows of recommendation. Pure functions on factor pairs; reading and writing
PEFT folders stands apart. Start at :func:`merge`; importing this package loads no torch.
"""

from bench.merging.adapter import Adapter, AdapterConfig, Factors
from bench.merging.card import vllm_rank
from bench.merging.configs import (
    DareConfig,
    ExtSubConfig,
    LoraLegoConfig,
    MergeConfig,
    TaskArithmeticConfig,
    TiesConfig,
    WeightAverageConfig,
)
from bench.merging.folders import read_adapter, write_adapter, write_files
from bench.merging.registry import MERGERS, fold_weights, make_config, merge

__all__ = [
    "MERGERS",
    "Adapter",
    "AdapterConfig",
    "DareConfig",
    "ExtSubConfig",
    "Factors",
    "LoraLegoConfig",
    "MergeConfig",
    "TaskArithmeticConfig",
    "TiesConfig",
    "WeightAverageConfig",
    "fold_weights",
    "make_config",
    "merge",
    "read_adapter",
    "vllm_rank",
    "write_adapter",
    "write_files",
]
