"""Prints, as hexadecimal floats, what must not depend on NumPy's version; run by a test, alone too."""

from __future__ import annotations

import json

import numpy as np

from bench.evaluation import (
    Outcomes,
    bootstrap_interval,
    metric_means,
    paired_bootstrap,
    sign_flip_test,
    summarise,
)
from bench.mixing import words


def outcomes(n: int, c: int) -> Outcomes:
    """Outcomes with ties, made of the words themselves."""
    better = (words(1, np.arange(n)) % np.uint64(c)).astype(np.int32)
    room = (c - 1 - better).astype(np.uint64)
    tied = (words(2, np.arange(n)) % (np.minimum(room, 3) + 1)).astype(np.int32)
    return Outcomes(better, tied, np.full(n, c, np.int32), np.ones(n, np.bool_))


def figures() -> dict[str, str]:
    """Every figure by its name."""
    found: dict[str, float] = {}
    for name, made in (("few", outcomes(7, 5)), ("usual", outcomes(4000, 30))):
        for metric, one in summarise(made).items():
            found |= {f"{name} {metric} low": one.ci95[0], f"{name} {metric} high": one.ci95[1]}
            found[f"{name} {metric} mean"] = one.mean
    many = outcomes(3000, 5000)
    found["auc of the catalogue"] = metric_means(many, ["auc"])["auc"]
    low, high = summarise(many, ["auc"])["auc"].ci95
    found |= {"auc of the catalogue low": low, "auc of the catalogue high": high}
    values = (words(3, np.arange(300)) >> np.uint64(40)).astype(np.float64) / 2**24 - 0.45
    for name, part in (("bca", values), ("percentile", np.concatenate([values, values]))):
        test = paired_bootstrap(part, 500, seed=3)
        found |= {f"{name} low": test.ci95[0], f"{name} high": test.ci95[1], f"{name} p": test.p}
    found["flips"] = sign_flip_test(values, 999, seed=1).p
    low, high = bootstrap_interval(values, seed=2**70, n_resamples=100)
    found |= {"long seed low": low, "long seed high": high}
    return {name: float(value).hex() for name, value in found.items()}


if __name__ == "__main__":
    print(json.dumps({"numpy": np.__version__, "figures": figures()}))
