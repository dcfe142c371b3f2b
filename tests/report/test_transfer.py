"""Gains from sources, on runs written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import random_outcomes
from statsmodels.stats.multitest import multipletests

from bench.cli.compare_reports import against_text
from bench.cli.run_transfer import print_transfer_of
from bench.errors import ResultError
from bench.evaluation import CORRECTIONS, compare_seeds, metric_per_user
from bench.report.plain import CORRECTION_NAMES
from bench.report.transfer import baseline_text, transfer, transfer_of, transfer_record
from bench.report.transfer_page import transfer_reading
from bench.runs.rivals import Rivals
from bench.runs.store import RunStore
from bench.runs.stored import read_run

SKILLS = {"weave": 1.6, "target-only": 1.0, "music": 0.6, "film": 0.2}


def validated(run, *figures):
    """The same run with validation figures in its manifest."""
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["validations"] = [{"ndcg@5": f, "ndcg@1": f / 2, "seconds": 0.1} for f in figures]
    path.write_text(json.dumps(manifest))
    return read_run(run.path)


@pytest.fixture
def study(write_run):
    """Three seeds of a method with two sources, target-only and both single sources."""

    def write(target="toyland", weave=1.6, seeds=(0, 1, 2), validation=(0.2, 0.4), task="a" * 64):
        runs = []
        for seed in seeds:

            def one(method, skill, seed=seed, **more):
                key = 1000 * seed + sum(map(ord, method + str(more)))
                outcomes = random_outcomes(400, key, skill=skill)
                return write_run(
                    method, outcomes, seed=seed, target=target, task=task, family="llm", **more
                )

            runs.append(one("weave", weave, sources=("music", "film")))
            runs.append(one("target-only", SKILLS["target-only"]))
            for source, figure in zip(("music", "film"), validation, strict=True):
                run = one("source-only", SKILLS[source], sources=(source,))
                runs.append(validated(run, figure / 2, figure) if figure else run)
        return runs

    return write


def stacked(runs, method, sources=()):
    chosen = sorted(
        (r for r in runs if (r.method, r.sources) == (method, sources)), key=lambda r: r.seed
    )
    return np.stack([metric_per_user(run.outcomes(), "ndcg@5") for run in chosen])


def test_gains_are_those_over_target_only_and_the_best_source_by_validation(study):
    runs = study()
    report = transfer(runs, ["toyland"])
    alone, single = report.gains
    weave = stacked(runs, "weave", ("music", "film"))
    assert (alone.against, alone.baseline) == ("target-only", "target-only")
    assert alone.test == compare_seeds(weave, stacked(runs, "target-only"))
    # Film has the better validation figure although music is better on the test users.
    assert (single.baseline_sources, single.chosen_by) == (("film",), "validation")
    assert single.test == compare_seeds(weave, stacked(runs, "source-only", ("film",)))
    raw = [alone.test.p, single.test.p]
    expected = multipletests(raw, method="holm")[1].tolist()
    assert [alone.adjusted_p, single.adjusted_p] == pytest.approx(expected, rel=1e-10)
    assert alone.verdict == single.verdict == "positive"
    record = json.loads(json.dumps(transfer_record(report), allow_nan=False))
    assert record["family_size"] == 2
    assert record["gains"][1]["test"]["seeds"] == [3, 3]


def test_a_method_hurt_by_its_sources_transfers_negatively(study):
    report = transfer(study(weave=-0.5), ["toyland"])
    assert report.gains[0].verdict == "negative"
    assert report.gains[0].test.difference < 0
    one_seed = transfer(study(target="moon", weave=-0.5, seeds=(0,)), ["moon"])
    assert one_seed.gains[0].verdict == "negative (this checkpoint)"
    assert one_seed.gains[0].outcome == "negative"
    record = transfer_record(one_seed)["gains"][0]
    assert (record["outcome"], record["verdict"]) == ("negative", "negative (this checkpoint)")


def test_the_page_names_the_correction_the_level_and_the_bound_of_its_tests(study):
    assert set(CORRECTION_NAMES) == set(CORRECTIONS)
    page = transfer_reading([transfer(study(), [], correction="bh", alpha=0.01, bound=0.02)])
    assert "Benjamini-Hochberg over the 2 gains on equally many users, level 0.01." in page
    assert "the interval lies within 0.02 of zero" in page


def page_baselines(page):
    """Cells of the column on what a gain is measured against, with the kind of baseline."""
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| toyland")]
    return [(row[4].strip(), row[5].strip()) for row in rows]


def test_a_baseline_is_told_once_with_its_sources_and_its_choice(study):
    report = transfer(study(), [])
    page = transfer_reading([report])
    expected = "source-only (sources film), by validation"
    assert page_baselines(page)[1] == ("best single source", expected)
    assert [against_text(gain) for gain in report.gains] == [
        "target-only: target-only",
        f"best single source: {expected}",
    ]
    assert "*By validation*" in page and "*By test*" not in page
    by_test = transfer_reading([transfer(study(target="moon", validation=(0, 0.4)), ["moon"])])
    assert "| source-only (sources music), by test |" in by_test
    assert "which favours it" in by_test and "*By validation*" not in by_test


def test_a_setting_named_sources_is_no_list_of_sources(write_run):
    config = {"pretrain": "sources"}
    more = {"family": "cross-domain", "config": config, "overrides": config}
    runs = [write_run("unisrec", random_outcomes(40, 0), sources=("a", "b"), **more)]
    # The only run of its method and profile: its label has no reason to name its source.
    runs.append(write_run("source-only", random_outcomes(40, 1), sources=("film",), **more))
    (gain,) = transfer(runs, [], all_configs=True).gains
    assert gain.baseline == "source-only (pretrain=sources)"
    assert baseline_text(gain) == "source-only (pretrain=sources) (film)"
    assert "source-only (pretrain=sources) (film)" in transfer_reading(
        [transfer(runs, [], all_configs=True)]
    )


def test_without_validation_figures_the_test_figures_choose_the_source(study):
    single = transfer(study(validation=(0, 0.4)), ["toyland"]).gains[1]
    assert (single.baseline_sources, single.chosen_by) == (("music",), "test")


def test_a_methods_own_runs_without_and_with_one_source_are_its_baselines(study, write_run):
    runs = study(seeds=(0,))
    runs.append(write_run("weave", random_outcomes(400, 5), family="llm"))
    runs.append(write_run("weave", random_outcomes(400, 6), family="llm", sources=("film",)))
    gains = {(g.sources, g.against): g for g in transfer(runs, []).gains}
    both = ("music", "film")
    assert gains[both, "target-only"].baseline.startswith("weave")
    assert gains[both, "best single source"].chosen_by == "the only one"
    assert gains[both, "best single source"].baseline_sources == ("film",)
    # One source is compared with none, not with itself.
    assert (("film",), "target-only") in gains
    assert (("film",), "best single source") not in gains


def test_targets_form_one_family_and_missing_baselines_are_named(study):
    runs = study() + [
        run for run in study(target="moon", task="b" * 64) if run.method in ("weave", "source-only")
    ]
    report = transfer(runs, [])
    assert [(g.target, g.against) for g in report.gains] == [
        ("moon", "best single source"),
        ("toyland", "target-only"),
        ("toyland", "best single source"),
    ]
    raw = [gain.test.p for gain in report.gains]
    assert [g.adjusted_p for g in report.gains] == pytest.approx(
        multipletests(raw, method="holm")[1].tolist(), rel=1e-10
    )
    assert any("moon: no target-only run for weave" in note for note in report.notes)


def test_nothing_to_report_says_what_is_needed(write_run):
    run = write_run("popularity", random_outcomes(30, 0))
    with pytest.raises(ResultError, match="runs of a method with sources and of target-only"):
        transfer([run], ["toyland"])


def test_methods_that_were_scored_on_fewer_users_are_named_with_the_option(write_run):
    few = {"users": np.arange(40), "n_total": 100}
    runs = [
        write_run("all-data", random_outcomes(40, 0), sources=["a", "b"], **few),
        write_run("target-only", random_outcomes(40, 1), **few),
        write_run("knn", random_outcomes(100, 2), trainable=False),
    ]
    with pytest.raises(ResultError, match=r"left out: all-data, target-only; .*--users N"):
        transfer(runs, ["toyland"])
    assert len(transfer(runs, ["toyland"], users=40).gains) == 1


SETTINGS = {"train_examples": 400, "training": {"epochs": 1}, "backbone": "small"}


def few_users(write_run, method, draw, users=(0, 40), **more):
    chosen = np.arange(*users, dtype=np.int32)
    outcomes = random_outcomes(len(chosen), draw)
    more = {"config": SETTINGS, "family": "llm", **more}
    return write_run(method, outcomes, users=chosen, n_total=100, **more)


def test_gains_of_one_run_are_found_over_its_own_users_and_settings(write_run):
    short = {**SETTINGS, "train_examples": 50}
    mine = few_users(
        write_run, "weave", 0, sources=("a", "b"), config={**short, "space": "factor"},
        overrides={"train_examples": 50},
    )  # fmt: skip
    near = few_users(write_run, "target-only", 1, config=short, overrides={"train_examples": 50})
    pool = [
        mine,
        near,
        few_users(write_run, "target-only", 2),
        few_users(
            write_run, "weave", 3, sources=("a", "b"), config={**SETTINGS, "space": "factor"}
        ),
        few_users(write_run, "source-only", 4, sources=("a",), users=(50, 90)),
        few_users(write_run, "target-only", 5, config=short, task="b" * 64),
        few_users(write_run, "source-only", 6, sources=("a",), config={"backbone": "large"}),
    ]
    report, missing = transfer_of([mine], pool)
    (gain,) = report.gains
    values = [metric_per_user(run.outcomes(), "ndcg@5")[None] for run in (mine, near)]
    assert gain.test == compare_seeds(*values)
    assert "train_examples=50" in gain.baseline
    assert [(one.method, one.against) for one in missing] == [(gain.method, "best single source")]
    # Both baselines of other settings are as near as each other only where nothing nearer is stored.
    assert transfer_of([mine], [mine, pool[2]])[0].gains[0].baseline == "target-only"
    assert transfer_of([mine], [])[0].gains == ()


def test_further_seeds_of_a_run_count(write_run):
    runs = [few_users(write_run, "weave", seed, seed=seed, sources=("a",)) for seed in (0, 1)]
    alone = [few_users(write_run, "target-only", 9 + seed, seed=seed) for seed in (0, 1)]
    report, missing = transfer_of(runs[1:], [*runs, *alone])
    assert report.gains[0].test.seeds == (2, 2)
    assert not missing


def test_a_run_ends_with_its_gain_or_the_command_of_the_missing_baseline(
    write_run, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", str(write_run.root))
    rivals = Rivals(RunStore(write_run.root))
    run = few_users(
        write_run, "weaverec", 0, sources=("a", "b"), seed=1, profile="paper",
        config={**SETTINGS, "space": "product"},
        overrides={"training.epochs": 2, "space": "product"},
    )  # fmt: skip
    print_transfer_of([run], rivals)
    tail = "--profile paper --seed 1 --set training.epochs=2 --limit-users 40"
    assert capsys.readouterr().out.splitlines() == [
        "No target-only run to compare weaverec (space=product, training.epochs=2) [paper] with: "
        f"bench run --method target-only --target toyland {tail}",
        "No best single source run to compare weaverec (space=product, training.epochs=2) [paper] "
        f"with: bench run --method source-only --target toyland --sources a,b {tail}",
    ]
    few_users(write_run, "target-only", 1, profile="paper")
    for number, source in enumerate("ab"):
        few_users(write_run, "source-only", 2 + number, sources=(source,), profile="paper")
    print_transfer_of([run], rivals)
    shown = capsys.readouterr().out
    assert "target-only: target-only" in shown and "best single source: source-only" in shown
    assert "bench run" not in shown
    print_transfer_of([few_users(write_run, "popularity", 5)], rivals)
    assert capsys.readouterr().out == ""


PRETRAINED = {"pretrain": "sources", "epochs": 30}


def pretrained(write_run, method, draw, **more):
    more = {"config": PRETRAINED, "family": "cross-domain", "sources": ("a", "b"), **more}
    return write_run(method, random_outcomes(40, draw), **more)


def test_a_pretrained_method_is_compared_with_its_own_run_without_sources(write_run):
    mine = pretrained(write_run, "unisrec", 0)
    alone = [
        pretrained(
            write_run, "unisrec", 1 + number, sources=(), config={"pretrain": "none", "epochs": epochs},
            overrides={"pretrain": "none", "epochs": epochs},
        )
        for number, epochs in enumerate((30, 5))
    ]  # fmt: skip
    other = pretrained(
        write_run, "vq-rec", 3, sources=(), config={**PRETRAINED, "pretrain": "none"}
    )
    (gain,) = transfer_of([mine], [mine, *alone, other])[0].gains
    values = [metric_per_user(run.outcomes(), "ndcg@5")[None] for run in (mine, alone[0])]
    assert gain.against == "target-only"
    assert gain.test == compare_seeds(*values)


def test_an_own_baseline_differs_in_its_pre_training_alone(write_run):
    mine = pretrained(write_run, "unisrec", 0)
    alone = pretrained(
        write_run, "unisrec", 1, sources=(), config={**PRETRAINED, "pretrain": "none"},
        overrides={"pretrain": "none"},
    )  # fmt: skip
    short = pretrained(
        write_run, "unisrec", 2, config={**PRETRAINED, "epochs": 2, "pretrain_epochs": 1},
        overrides={"epochs": 2, "pretrain_epochs": 1},
    )  # fmt: skip
    (gain,) = transfer([mine, alone, short], ["toyland"]).gains
    assert (gain.against, "pretrain=none" in gain.baseline) == ("target-only", True)
    assert "epochs" not in gain.method
    # A baseline of another budget would call the budget's gain transfer.
    report = transfer([mine, alone, short], ["toyland"], all_configs=True)
    assert len(report.gains) == 1
    assert any("epochs=2" in note for note in report.notes)
    short_alone = pretrained(
        write_run, "unisrec", 3, sources=(),
        config={**PRETRAINED, "epochs": 2, "pretrain": "none"},
        overrides={"epochs": 2, "pretrain": "none"},
    )  # fmt: skip
    gains = transfer([mine, alone, short, short_alone], ["toyland"], all_configs=True).gains
    assert {("epochs=2" in one.method, "epochs=2" in one.baseline) for one in gains} == {
        (False, False),
        (True, True),
    }


def test_what_a_run_alone_needs_is_in_the_command_and_no_command_is_made_up(
    write_run, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    runs = [
        pretrained(write_run, "unisrec", 0, overrides={"mode": "inductive", "pretrain_epochs": 2}),
        pretrained(write_run, "mcrpl", 1),
    ]
    print_transfer_of(runs, Rivals(RunStore(write_run.root)))
    shown = capsys.readouterr().out.splitlines()
    unisrec, mcrpl = ([line for line in shown if name in line] for name in ("unisrec", "mcrpl"))
    assert unisrec[0].endswith(
        "bench run --method unisrec --target toyland --set mode=inductive --set pretrain=none "
        f"--store {write_run.root}"
    )
    assert "--sources a --set mode=inductive --set pretrain_epochs=2" in unisrec[1]
    # MCRPL cannot do without sources.
    (single,) = mcrpl
    assert "bench run --method mcrpl --target toyland --sources a" in single
