"""A small VQ-Rec, and a model on made-up codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.baselines.training import isolated_randomness
from bench.baselines.vq_rec.method import VQRec, VQRecConfig
from bench.baselines.vq_rec.model import flat_ids

BLOCKS, CODES, SIZE, N_ITEMS = 4, 8, 16, 30

QUICK = {
    "epochs": 20,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "pretrain_epochs": 8,
    "pretrain_batch_size": 128,
    "pretrain_learning_rate": 3e-3,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "alignment_epochs": 2,
    "n_codes": 16,
}


def small(**more: Any) -> VQRecConfig:
    base = {
        "hidden_size": SIZE,
        "inner_size": 24,
        "max_history": 12,
        "n_blocks": BLOCKS,
        "n_codes": CODES,
        "rotations": 2,
        "validation_users": 100,
    }
    return VQRecConfig(**(base | more))


def codes_of_items(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CODES, size=(N_ITEMS, BLOCKS))


def built(codes: np.ndarray, **more: Any) -> VQRec:
    method = VQRec(small(**more))
    with isolated_randomness(0):
        method.model = method.build(1, len(codes)).eval()
    method.set_content(method.encoder, flat_ids(codes, CODES))
    return method
