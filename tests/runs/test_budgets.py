"""Which trained runs stand for their method: hand-made curves and manifests of every kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.runs.budgets import TOLERANCE, examine_curve, judge

RISING = [0.30 + 0.01 * epoch for epoch in range(12)]


def run_of(method, *, training=None, config=None, sources=(), **more):
    """A run of 100 users with ten training events each in every domain."""
    domain = {"events": 1200, "users": 100}
    manifest = {
        "method": {"trainable": True, **more},
        "training": training,
        "task": {},
        "data": dict.fromkeys(("target", *sources), domain),
    }
    return SimpleNamespace(
        method=method,
        manifest=manifest,
        config=config or {},
        target="target",
        sources=tuple(sources),
        imported=None,
    )


def history(figures=None, epochs=1):
    if figures is None:
        return [{"epoch": n + 1} for n in range(epochs)]
    return [{"epoch": n + 1, "ndcg@5": value} for n, value in enumerate(figures)]


def training(figures, **more):
    return {"history": history(figures), "best_epoch": int(np.argmax(figures)) + 1, **more}


def noisy(figures, sd, seed=0):
    values = np.asarray(figures) + sd * np.random.default_rng(seed).standard_normal(len(figures))
    return values.tolist()


def test_noise_is_that_of_one_figure_whatever_the_slope():
    found = examine_curve(noisy([0.3 + 0.002 * n for n in range(400)], 0.003), 199)
    assert found.noise == pytest.approx(0.003, rel=0.15)
    assert found.gain == pytest.approx(199 * 0.002, rel=0.1)


@pytest.mark.parametrize("figures", [[0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5]])
def test_nothing_is_said_of_short_curves(figures):
    waited = len(figures) - 1 - int(np.argmax(figures))
    assert examine_curve(figures, waited) is None


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        (RISING, "short"),
        # As many epochs after the best one as the authors wait, and no gain.
        ([*RISING, *[0.405] * 12], "flat"),
        # The same plateau after half of that patience proves nothing ...
        ([*RISING, *[0.405] * 5], "short"),
        # ... but a clear fall does.
        ([*RISING, *[0.41 - 0.004 * n for n in range(1, 6)]], "past its best"),
        # A slow rise within noise that stopped the training by chance.
        (
            [
                *noisy([0.30 + 0.002 * n for n in range(30)], 0.004),
                0.42,
                *noisy([0.36] * 10, 0.004),
            ],
            "short",
        ),
    ],
)
def test_a_curve_decides_if_the_rows_do_not(figures, verdict):
    budget = judge(run_of("gru4rec", training=training(figures), config={"rows": "prefixes"}))
    (stage,) = budget.stages
    assert stage.verdict == verdict
    assert (stage.rows, stage.authors) == (len(figures) * 900, 300 * 900)
    assert budget.share == (stage.share if verdict == "short" else None)


def test_a_gain_above_the_tolerance_is_not_flat():
    plateau = [*RISING, *[0.39 + 0.1 * TOLERANCE * n for n in range(1, 13)]]
    (stage,) = judge(run_of("sasrec", training=training(plateau), config={})).stages
    assert stage.curve.gain > TOLERANCE
    assert stage.verdict == "short"


def test_the_authors_number_of_rows_needs_no_curve():
    stages = {"stage-1": {"history": history(epochs=50), "best_epoch": 50}}
    whole = training([0.3] * 30, stages=stages)
    run = run_of("mcrpl", training=whole, config={"rows": "random-prefix"}, sources=["a", "b"])
    assert [stage.verdict for stage in judge(run).stages] == ["whole", "whole"]
    assert judge(run).stages[0].rows == 50 * 300
    stages["stage-1"]["history"].pop()
    short = judge(run)
    assert [stage.name for stage in short.short] == ["stage-1"]
    assert short.share == pytest.approx(49 / 50)


def test_prefixes_are_nine_rows_of_a_user_and_random_ones_one():
    stages = {"stage-1": {"history": history(epochs=6), "best_epoch": 6}}
    run = run_of("mcrpl", training={"stages": stages}, config={"rows": "prefixes"})
    assert judge(run).stages[0].rows == 6 * 900
    assert judge(run).stages[0].verdict == "whole"


def test_rows_of_bert4rec_are_sequences():
    config = {"rows": "all-positions", "fresh_masks": 5}
    (stage,) = judge(run_of("bert4rec", training=training(RISING), config=config)).stages
    assert stage.rows == 12 * 5 * 100
    config = {"rows": "prefixes", "fresh_masks": 1}
    (stage,) = judge(run_of("bert4rec", training=training(RISING), config=config)).stages
    assert stage.rows == 12 * 900


def test_epochs_of_steps_and_of_drawn_rows():
    config = {"steps": 5, "batch_size": 4, "pretrain_steps": 3, "pretrain_batch_size": 2}
    parts = {
        "pre-training": {"history": history(epochs=2), "best_epoch": 2},
        "stage 1": training([0.1, 0.2]),
    }
    run = run_of(
        "recformer", training=training([0.1, 0.2], stages=parts), config=config, sources=["a"]
    )
    assert [stage.rows for stage in judge(run).stages] == [2 * 3 * 2, 2 * 5 * 4, 2 * 5 * 4]
    # Its authors fine-tune on a fifth of the users.
    assert [stage.authors for stage in judge(run).stages] == [32 * 100, 16 * 20, 16 * 20]
    parts = {"pre-training": {"history": history(epochs=2), "best_epoch": 2}}
    run = run_of(
        "unisrec",
        training=training(RISING, stages=parts),
        config={"pretrain_rows": 500, "rows": "all-positions"},
        sources=["a"],
    )
    assert {stage.name: stage.rows for stage in judge(run).stages} == {
        "pre-training": 1000,
        "training": 12 * 900,
    }


@pytest.mark.parametrize(
    ("config", "n_rounds", "rows"),
    [
        # Rounds of 100 steps of 4 rows, of which the last has 50 steps.
        ({"steps": 250, "epochs": 1}, 3, 1000),
        ({"steps": 250, "epochs": 1}, 2, 800),
        ({"steps": None, "epochs": 2}, 3, 1200),
        ({"steps": None, "epochs": 1}, 5, 1800),
    ],
)
def test_rounds_of_llm_rec_are_no_passes(config, n_rounds, rows):
    rounds = {"history": history(epochs=n_rounds), "best_epoch": n_rounds}
    config = {**config, "check_steps": 100, "batch_size": 4}
    (stage,) = judge(run_of("llm-rec", training=rounds, config=config, sources=["a"])).stages
    assert (stage.rows, stage.authors, stage.verdict) == (rows, 50 * 1800, "short")


def test_adapters_are_judged_by_their_examples():
    config = {"train_examples": 400, "training": {"epochs": 1}}
    (stage,) = judge(run_of("weaverec", config=config)).stages
    assert (stage.rows, stage.authors, stage.verdict) == (400, 1800, "short")
    config = {"train_examples": None, "training": {"epochs": 2}}
    assert judge(run_of("weaverec", config=config)).stages[0].verdict == "whole"


def test_a_training_that_warns_of_itself_is_short():
    figures = [*RISING, *[0.41 - 0.004 * n for n in range(1, 6)]]
    run = run_of("recbole:STAMP", training=training(figures, warnings=["left at chance"]))
    (stage,) = judge(run).stages
    assert stage.verdict == "short"
    assert stage.warnings == ("left at chance",)


def test_what_has_no_authors_regime_is_not_judged(tmp_path: Path):
    assert judge(run_of("item-knn", trainable=False)) is None
    assert judge(run_of("gru4rec", training=training(RISING), plugin_sha256="ab")) is None
    assert judge(run_of("my-method", training=training(RISING))) is None
    imported = run_of("gru4rec", training=training(RISING))
    imported.imported = {"scores_sha256": "ab"}
    assert judge(imported) is None
