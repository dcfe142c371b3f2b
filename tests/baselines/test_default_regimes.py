"""Every trained method learns a small domain with the limits of its profile ``cpu`` as they are.

Epochs, patience, rows, batches and validation are the profile's. Changed are the text encoder, a random tiny
one that needs larger steps than a pre-trained one, and the number of codes of 60 titles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fitted_method import fitted

pytest.importorskip("torch")
pytest.importorskip("recbole")

from bench.baselines.training import TrainingReport
from bench.data.domain import Domain
from bench.data.strings import StringColumn
from bench.evaluation import metric_per_user
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol import build_task
from bench.testing import evaluate, make_context
from bench.testing.planted import planted_domain, planted_sources

# An item is called by three of them, so that a title has two words of the next one's.
WORDS = [
    "oak",
    "elm",
    "fir",
    "ivy",
    "fern",
    "moss",
    "reed",
    "palm",
    "rose",
    "lily",
    "iris",
    "mint",
    "sage",
    "dill",
    "leek",
    "kale",
    "pea",
    "bean",
    "corn",
    "rice",
    "rye",
    "oat",
    "fig",
    "plum",
    "pear",
    "lime",
    "kiwi",
    "date",
    "nut",
    "salt",
    "tea",
    "milk",
    "egg",
    "ham",
    "fish",
    "crab",
    "seal",
    "wolf",
    "bear",
    "lynx",
    "hare",
    "deer",
    "goat",
    "ox",
    "hen",
    "duck",
    "swan",
    "owl",
    "crow",
    "lark",
    "wren",
    "moth",
    "bee",
    "ant",
    "fly",
    "gnat",
    "newt",
    "frog",
    "toad",
    "boa",
    "ray",
    "eel",
]


def titled(domain: Domain) -> Domain:
    """The same domain with titles that overlap along its cycle."""
    n_items = domain.n_items
    names = [" ".join(WORDS[(i + k) % n_items] for k in range(3)) for i in range(n_items)]
    items = replace(domain.items, titles=StringColumn.from_list(names))
    return replace(domain, items=items)


SOURCES = tuple(map(titled, planted_sources(2, n_users=150)))
TASK = build_task(
    titled(planted_domain(n_users=300, n_items=60, namespace="planted")),
    sources=SOURCES,
    siblings=SOURCES,
)


def ndcg5(name: str, folder: Path, **overrides: Any) -> tuple[float, TrainingReport | None]:
    """NDCG@5 over all test users with the method's profile ``cpu``, and its training report."""
    cls: Any = resolve(name)
    method = cls(resolve_config(cls, overrides=overrides))
    fitted(method, TASK, folder)
    context = make_context(folder / "test", TASK)
    found = metric_per_user(evaluate(method, TASK.test(TASK.subset(None)), context), "ndcg@5")
    return float(found.mean()), getattr(method, "report", None)


POPULARITY = 0.061
"""NDCG@5 of ``popularity``, which knows nothing of a cycle whose items are equally frequent."""

STEP = 3e-3

METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    # name: method, changes, least NDCG@5
    "FPMC": ("recbole:FPMC", {}, 0.6),
    **{name: (f"recbole:{name}", {}, 0.6) for name in ("STAMP", "NARM", "SRGNN")},
    **{name: (name, {}, 0.6) for name in ("gru4rec", "sasrec", "bert4rec", "mcrpl")},
    "fmlp-rec": ("fmlp-rec", {}, 0.6),
    "fmlp-rec-ce": ("fmlp-rec", {"loss": "ce"}, 0.6),
    "unisrec": ("unisrec", {"text_encoder": ...}, 0.6),
    "vq-rec": ("vq-rec", {"text_encoder": ..., "n_blocks": 8, "n_codes": 16}, 0.6),
    "recformer": (
        "recformer",
        {"encoder": ..., "learning_rate": STEP, "pretrain_learning_rate": STEP},
        0.6,
    ),
    # One pass over 3,900 rows.
    "llm-rec": ("llm-rec", {"encoder": ..., "learning_rate": STEP}, 0.25),
}
FAST = {"FPMC"}


def test_popularity_finds_nothing(own_cache: None, tmp_path: Path) -> None:
    assert ndcg5("popularity", tmp_path)[0] == pytest.approx(POPULARITY, abs=0.001)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_the_default_limits_are_enough_for_a_small_domain(
    name: str, encoder: str, tmp_path: Path
) -> None:
    method, changes, least = METHODS[name]
    overrides = {key: encoder if value is ... else value for key, value in changes.items()}
    figure, report = ndcg5(method, tmp_path, **overrides)
    assert figure > least > 4 * POPULARITY
    assert report is not None
    assert report.warnings == []


def test_a_patience_of_few_small_epochs_ends_training_at_chance(
    own_cache: None, tmp_path: Path
) -> None:
    figure, report = ndcg5("recbole:STAMP", tmp_path, rows="random-prefix", patience=5)
    assert figure < METHODS["STAMP"][2]
    assert report is not None
    (text,) = report.warnings
    assert text.startswith("at chance after")
