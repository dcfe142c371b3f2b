"""Time of encoding a domain's titles, beside sentence-transformers' ``encode``.

``python benchmarks/encode_titles.py --domain amazon-beauty`` encodes the same titles with the same
model, weights and token limit on one thread, both loaded before the clock starts, in turns, so that
other programs on the machine disturb both alike. sentence-transformers runs at its own batch size
(32) and at a larger one. The cache of vectors is not used. Printed: medians over rounds, the ratio to
the faster of the peer's two, and the largest difference between the vectors after both have norm 1.

sentence-transformers is no dependency of this project. Install it aside and name the folder::

    pip install --no-deps --target FOLDER sentence-transformers
    PYTHONPATH=FOLDER python benchmarks/encode_titles.py
"""

from __future__ import annotations

import argparse
import os

os.environ["RAYON_NUM_THREADS"] = "1"  # of the tokenizers, read when they are imported

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.baselines.text import load_encoder_model, resolve_encoder, unit_rows
from bench.baselines.text.vectors import encode_with
from bench.data.load import load_domain

PEER_BATCHES = (32, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--domain", default="amazon-beauty")
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--titles", type=int, default=3000, help="how many, drawn at random")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        package: Any = importlib.import_module("sentence_transformers")
    except ImportError:
        raise SystemExit(__doc__) from None
    torch.set_num_threads(1)
    titles = list(load_domain(options.domain).items.titles)
    drawn = np.random.default_rng(0).permutation(len(titles))[: options.titles]
    texts = [titles[item] for item in sorted(drawn.tolist())]
    encoder = resolve_encoder(options.encoder)
    model, tokenizer = load_encoder_model(encoder)
    peer: Any = package.SentenceTransformer(str(encoder.folder), device="cpu")
    peer.max_seq_length = options.max_tokens

    def ours() -> np.ndarray:
        return encode_with(
            model, tokenizer, texts, pooling=encoder.pooling, max_tokens=options.max_tokens
        )

    def theirs(batch_size: int) -> Callable[[], np.ndarray]:
        return lambda: peer.encode(texts, batch_size=batch_size, show_progress_bar=False)

    sides = {"here": ours} | {f"peer, batch {size}": theirs(size) for size in PEER_BATCHES}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    vectors: dict[str, np.ndarray] = {}
    for name, run in sides.items():
        run_some = time.perf_counter()
        vectors[name] = run()  # warms up, and is compared below
        print(f"warm-up {name}: {time.perf_counter() - run_some:.1f} s", flush=True)
    for _ in range(options.rounds):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        f"{options.domain}: {len(texts)} titles ({len(set(texts))} distinct), at most "
        f"{options.max_tokens} tokens, {encoder.name}, one thread, "
        f"sentence-transformers {package.__version__}, torch {torch.__version__}"
    )
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rounds, strict=True))
        for name, rounds in times.items()
    }
    for name, (wall, cpu) in medians.items():
        rate = len(texts) / cpu
        print(
            f"{name:16} wall {wall:7.2f} s   CPU {cpu:7.2f} s   {rate:6.0f} titles per CPU second"
        )
    for position, what in enumerate(("wall", "CPU")):
        fastest = min(medians[name][position] for name in sides if name != "here")
        print(f"ratio by {what}: {fastest / medians['here'][position]:.2f} times the peer's speed")
    gap = max(
        float(np.abs(unit_rows(vectors["here"]) - unit_rows(vectors[name])).max())
        for name in sides
        if name != "here"
    )
    print(f"largest difference of a coordinate: {gap:.1e}")


if __name__ == "__main__":
    main()
