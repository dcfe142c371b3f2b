"""Generated leaderboards: the same bytes from the same results, and a reading with its test."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from report_runs import random_outcomes, scored_on
from scipy import stats
from typer.testing import CliRunner

from bench.cli.app import app
from bench.errors import ResultError
from bench.evaluation import metric_per_user
from bench.report.budgets import budget_page
from bench.report.committed import differences, render, write
from bench.report.leaderboard import draft_table
from bench.report.missing import missing_commands
from bench.report.reading import training_free_pairs
from bench.runs.store import RunStore
from bench.suites import Suite


@pytest.fixture
def results(write_run):
    for target in ("toyland", "seaside"):
        task = target[0] * 64
        options = {"target": target, "task": task}
        write_run("knn", random_outcomes(400, 0, skill=1.5), trainable=False, **options)
        write_run("net", random_outcomes(400, 1, skill=0.5), family="single-domain", **options)
        for seed in range(3):
            outcomes = random_outcomes(400, 5 + seed, skill=2.5)
            write_run("big", outcomes, seed=seed, family="single-domain", **options)
    return write_run.root


def test_same_results_give_the_same_bytes_wherever_they_lie(results, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(results, copy)
    files = render(results)
    assert files == render(copy)
    assert set(files) == {
        "README.md",
        *(f"{t}.{kind}" for t in ("toyland", "seaside") for kind in ("md", "tex", "csv", "json")),
    }
    for content in files.values():
        assert content.endswith(b"\n") and str(tmp_path).encode() not in content


def test_a_limited_run_gets_a_table_over_its_users(write_run):
    options = {"target": "toyland", "task": "t" * 64}
    whole = random_outcomes(400, 0, skill=1.5)
    write_run("knn", whole, trainable=False, **options)
    users = np.arange(0, 400, 4, dtype=np.int32)
    write_run("talker", whole.take(users), users=users, n_total=400, **options)
    files = render(write_run.root)
    assert {"toyland.md", "toyland-100-users.md"} <= set(files)
    rows = json.loads(files["toyland-100-users.json"])["blocks"][0]["rows"]
    figures = {row["method"]: row["metrics"]["ndcg@5"]["mean"] for row in rows}
    # The talker repeats the other's answers: equal figures show that both stand on the same users.
    assert figures["knn"] == figures["talker"]
    assert b"toyland-100-users.md" in files["README.md"]


def test_the_index_says_whether_sources_helped_over_the_subset(write_run):
    users = np.arange(0, 400, 4, dtype=np.int32)
    options = {"target": "toyland", "task": "t" * 64}
    write_run("knn", random_outcomes(400, 0, skill=1.5), trainable=False, **options)
    limited = {**options, "users": users, "n_total": 400, "family": "llm"}
    alone = write_run("target-only", random_outcomes(100, 1, skill=1.5), **limited)
    assert "Did the sources help?" not in render(write_run.root)["README.md"].decode()
    weave = write_run("weave", random_outcomes(100, 2, skill=0.0), sources=("a", "b"), **limited)
    # A run over all users with sources and without baseline there is no reason to stop.
    write_run("mixer", random_outcomes(400, 3), sources=("a",), **options)
    page = render(write_run.root)["README.md"].decode()
    section = page.split("## Did the sources help?")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.splitlines()
        if line.startswith("| toyland")
    ]
    a, b = (metric_per_user(run.outcomes(), "ndcg@5") for run in (weave, alone))
    by_method = {row[2]: row for row in rows}
    found = by_method["weave"]
    assert found[:2] == ["toyland", "100"]
    assert found[3:6] == ["target-only", "target-only", f"{(a - b).mean():+.4f}"]
    assert found[-1] == "negative (this checkpoint)"
    # The wider run is cut to the users of the subset.
    assert set(by_method) == {"weave", "mixer"}
    n_negative = sum(row[-1].startswith("negative") for row in rows)
    assert f"Of 2 gains over the target alone: {n_negative} negative" in section


def test_differences_are_found_named_and_mended(results, tmp_path):
    out = tmp_path / "out"
    files = render(results)
    assert len(write(files, out)) == len(files)
    assert differences(files, out) == []
    assert write(files, out) == []
    (out / "toyland.md").write_bytes((out / "toyland.md").read_bytes().replace(b"knn", b"kmn"))
    (out / "seaside.csv").unlink()
    (out / "gone.md").write_text("x")
    found = differences(files, out)
    assert len(found) == 3
    assert "seaside.csv: missing" in found[0]
    assert "toyland.md: line " in found[1] and "kmn" in found[1]
    assert "gone.md: no result" in found[2]
    assert {path.name for path in write(files, out)} == {"toyland.md", "seaside.csv"}


def test_a_new_result_changes_the_tables(results, tmp_path, write_run):
    before = render(results)
    write_run("ease", random_outcomes(400, 3), target="toyland", task="t" * 64, trainable=False)
    after = render(results)
    changed = {name for name in after if after[name] != before[name]}
    assert {"README.md", "toyland.md", "toyland.tex", "toyland.csv", "toyland.json"} <= changed


def test_reading_tests_every_training_free_row_against_every_trained_one(results):
    runs = RunStore(results).list()
    pairs = training_free_pairs([draft_table(runs, t) for t in ("seaside", "toyland")])
    assert [(p.target, p.free.row.label, p.trained.row.label) for p in pairs] == [
        (t, "knn", other) for t in ("seaside", "toyland") for other in ("big", "net")
    ]
    pair = pairs[-1]
    found = {(r.target, r.method): r for r in runs}
    a, b = (
        metric_per_user(found["toyland", method].outcomes(), "ndcg@5") for method in ("knn", "net")
    )
    assert pair.test.this_checkpoint
    assert pair.test.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert pair.adjusted_p >= pair.test.p


def test_rows_trained_too_little_are_marked_and_left_out_of_the_reading(write_run):
    curve = [0.2 + 0.01 * epoch for epoch in range(12)]
    options = {"target": "toyland", "task": "t" * 64, "family": "single-domain"}
    more = {"config": {"rows": "prefixes"}, "data": {"toyland": {"events": 4000, "users": 400}}}
    for method, figures in (("gru4rec", curve), ("sasrec", [*curve, *[0.3] * 3, 0.29, 0.28, 0.27])):
        history = [{"epoch": n + 1, "ndcg@5": value} for n, value in enumerate(figures)]
        training = {"history": history, "best_epoch": 12}
        outcomes = random_outcomes(400, len(figures), skill=2.5)
        write_run(method, outcomes, training=training, **options, **more)
    knn = random_outcomes(400, 0, skill=1.5)
    write_run("knn", knn, trainable=False, **{**options, "family": "reference"})
    files = {name: content.decode() for name, content in render(write_run.root).items()}
    rows = {row["method"]: row for row in json.loads(files["toyland.json"])["blocks"][0]["rows"]}
    assert rows["gru4rec"]["flags"] == ["budget"]
    assert rows["gru4rec"]["budget_share"] == pytest.approx(12 / 300)
    assert (rows["sasrec"]["flags"], "budget_share" in rows["sasrec"]) == ([], False)
    assert "gru4rec \\#" in files["toyland.md"]
    assert "trained for less than its authors' regime" in files["toyland.md"]
    assert "gru4rec 4 %" in files["toyland.md"]
    assert r"\#" in files["toyland.tex"]
    (line,) = [line for line in files["toyland.csv"].splitlines() if ",gru4rec," in line]
    assert ",budget," in line
    drafts = [draft_table(RunStore(write_run.root).list(), "toyland")]
    assert {pair.trained.row.method for pair in training_free_pairs(drafts)} == {"sasrec"}
    assert "1 trained row stays out of this reading" in files["README.md"]
    page = budget_page(RunStore(write_run.root).list(), "make pages")
    assert "Of 2 trained runs 1 is short." in page
    assert page.count("past its best |") == 1
    takes = page[page.index("## What the short rows would take") :]
    assert "gru4rec" in takes
    assert "sasrec" not in takes


def test_reading_separates_methods_from_checkpoints(results):
    page = render(results)["README.md"].decode()
    assert "above a trained one in 2 of" in page
    assert "significant between methods in 0 pairs. In 2 more" in page
    assert "No training-free row is above big on any of these targets." in page
    assert page.count("| knn ") == 2


def test_a_column_of_p_values_has_figures_without_a_sign_of_relation(write_run):
    options = {"target": "toyland", "task": "t" * 64}
    write_run("net", random_outcomes(400, 1), family="single-domain", **options)
    for name, skill in (("clear", 3.0), ("close", 1.1)):
        write_run(name, random_outcomes(400, 2, skill=skill), trainable=False, **options)
    pairs = training_free_pairs([draft_table(RunStore(write_run.root).list(), "toyland")])
    page = render(write_run.root)["README.md"].decode()
    cells = [line.split("|")[-3].strip() for line in page.splitlines() if "| net " in line]
    assert [pair.adjusted_p < 1e-4 for pair in pairs] == [True, False]
    assert cells == ["\\< 1e-4", f"{pairs[1].adjusted_p:.2g}"]


def test_further_request_sets_become_a_page_and_a_section_of_the_index(results, write_run):
    assert "robustness.md" not in render(results)
    run = write_run("set", random_outcomes(400, 3), target="toyland", task="t" * 64)
    full, draw = random_outcomes(400, 4, c=200), random_outcomes(400, 5)
    scored_on(run, full=full, draws={1: draw})
    files = render(results)
    page, index = files["robustness.md"].decode(), files["README.md"].decode()
    line = next(x for x in page.splitlines() if x.startswith("| set"))
    figures = [f"{metric_per_user(full, m).mean():.4f}" for m in ("hr@10", "ndcg@10")]
    assert [cell.strip() for cell in line.split("|")[2:4]] == figures
    assert f"{metric_per_user(draw, 'ndcg@5').mean():.4f}" in page
    assert "seaside" not in page and "(robustness.md)" in index
    assert "Without full ranking and the other candidate seeds: big, knn, net; `bench run" in page


def test_missing_runs_of_a_suite_become_commands(results):
    runs = RunStore(results).list()
    suite = Suite.model_validate(
        {"name": "s", "title": "S", "methods": ["knn", "net", "big", "new"],
         "scales": {"cpu": {"targets": ["toyland", "seaside", "desert"]}}}
    )  # fmt: skip
    drafts = [draft_table(runs, target) for target in ("toyland", "seaside")]
    tail = " --candidate-seed 0,1,2 --also-full"
    assert missing_commands(drafts, suite) == [
        f"bench run --method knn --target desert{tail}",
        f"bench run --method net --target toyland,seaside --seed 1,2{tail}",
        f"bench run --method net --target desert --seed 0,1,2{tail}",
        f"bench run --method big --target desert --seed 0,1,2{tail}",
        f"bench run --method new --target toyland,seaside,desert --seed 0,1,2{tail}",
    ]
    # Results of other targets are no attempt at the suite.
    assert "What is missing" not in render(results)["README.md"].decode()


def test_command_writes_checks_and_fails_on_a_difference(results, tmp_path):
    run, out = CliRunner(), tmp_path / "out"
    arguments = ["results", "tables", str(results), "--out", str(out)]
    assert run.invoke(app, arguments).exit_code == 0
    assert run.invoke(app, [*arguments, "--check"]).exit_code == 0
    (out / "README.md").write_text("typed by hand\n")
    found = run.invoke(app, [*arguments, "--check"])
    assert found.exit_code == 1 and "README.md: line 1" in found.output
    assert (out / "README.md").read_text() == "typed by hand\n"


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="no results below"):
        render(tmp_path)
