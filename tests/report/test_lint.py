"""Lint of tables and runs: what cannot be is found, what is true passes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_runs import outcomes_with_ranks, random_outcomes

from bench.errors import ConfigError, DataError, ResultError
from bench.evaluation import METRICS, metric_means
from bench.report.leaderboard import build_table, to_csv, to_json, to_latex, to_markdown
from bench.report.lint import LintOptions, lint_rows, read_table, reported_path
from bench.report.lint import lint as lint_all
from bench.runs.store import RunStore
from bench.runs.stored import read_run

N = 400


def lint(name, store):
    (report,) = lint_all(name, store)
    return report


def store_metrics(run, change=None):
    """Write the true means of a run (then ``change`` them) and a manifest that agrees with the file."""
    means = metric_means(run.outcomes(), METRICS)
    means.update(change or {})
    values = {name: {"mean": value, "ci95": [value, value]} for name, value in means.items()}
    text = json.dumps({"metrics": values})
    (run.path / "metrics.json").write_text(text)
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["files"]["metrics.json"] = hashlib.sha256(text.encode()).hexdigest()
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    return read_run(run.path)


@pytest.fixture
def runs(write_run):
    """A tie-free run, one with ties, and one that knows nothing."""
    zeros = np.zeros(N, np.int64)
    constant = random_outcomes(N, 1, levels=1e-9)
    assert constant.n_tied.tolist() == (zeros + 29).tolist()
    made = [
        write_run("sasrec", random_outcomes(N, 0, skill=1.5), family="single-domain"),
        write_run("popularity", random_outcomes(N, 2, skill=0.8, levels=2)),
        write_run("random", constant),
    ]
    return [store_metrics(run) for run in made]


def test_true_runs_pass_and_grim_applies_without_ties(runs, write_run):
    report = lint(str(write_run.root), RunStore(write_run.root))
    assert report.findings == ()
    assert (report.n_rows, report.n_grim) == (3, 1)


@pytest.mark.parametrize("writer", [to_markdown, to_latex, to_csv, to_json])
def test_our_own_tables_pass_and_an_injected_fault_is_found(runs, writer, tmp_path):
    table = build_table(runs, "toyland")
    text = writer(table)
    suffix = {to_markdown: ".md", to_latex: ".tex", to_csv: ".csv", to_json: ".json"}[writer]
    path = tmp_path / f"table{suffix}"
    path.write_text(text)
    store = RunStore(tmp_path / "none")
    true = lint(str(path), store)
    assert (true.n_rows, true.n_inconsistent) == (3, 0)

    row = next(r for r in table.rows if r.method == "sasrec")
    figure = row.figures["mrr@5"]
    printed = figure.shown if writer in (to_markdown, to_latex) else repr(figure.mean)
    wrong = row.figures["ndcg@5"].mean + 0.02
    assert text.count(printed) == 1
    path.write_text(text.replace(printed, f"{wrong:.4f}"))
    broken = lint(str(path), store)
    assert broken.n_inconsistent == 1
    (finding,) = [f for f in broken.findings if f.severity == "inconsistent"]
    assert (finding.target, finding.check) == ("toyland", "bounds")
    assert finding.method.startswith("sasrec")
    assert "mrr@5" in finding.metrics


def test_a_faulty_random_row_of_ours_is_found(runs):
    text = to_markdown(build_table(runs, "toyland"))
    line = next(x for x in text.splitlines() if "random" in x and "0.0983" in x)
    broken = read_table(text.replace(line, line.replace("0.0983", "0.1003")), "x", suffix=".md")
    (finding,) = lint_rows(broken).findings
    assert (finding.check, finding.severity, finding.metrics) == (
        "random",
        "inconsistent",
        ("ndcg@5",),
    )


def test_stored_means_that_their_outcomes_do_not_give(runs):
    run = store_metrics(runs[0], {"hr@5": runs[0].metrics["metrics"]["hr@5"]["mean"] + 1e-4})
    report = lint(str(run.path), RunStore(run.path))
    checks = {(f.check, f.metrics) for f in report.findings}
    assert ("stored", ("hr@5",)) in checks
    assert ("grim", ("hr@5",)) in checks
    assert report.n_inconsistent == 1


def test_a_damaged_run_in_a_folder_is_an_inconsistency(runs, write_run):
    (runs[1].path / "metrics.json").write_text("{}")
    report = lint(str(write_run.root), RunStore(write_run.root))
    assert (report.n_rows, report.n_inconsistent) == (2, 1)
    assert "metrics.json was changed" in report.findings[0].message


def test_a_run_by_its_first_digits(runs, write_run):
    report = lint(runs[0].run_id[:8], RunStore(write_run.root))
    assert (report.source, report.n_rows) == (f"run {runs[0].run_id}", 1)


def test_the_reference_paper():
    """24 of 108 cells are impossible; 21 of them fit an MRR without its cut-off, 3 nothing."""
    report = lint("weaverec-2025", RunStore(reported_path("weaverec-2025").parent))
    assert (report.n_rows, report.n_figures, report.n_inconsistent) == (108, 432, 24)
    bad = [f for f in report.findings if f.severity == "inconsistent"]
    assert sum(f.uncut_mrr for f in bad) == 21
    assert {(f.target, f.method) for f in bad if not f.uncut_mrr} == {
        ("ml-1m", "SASRec"),
        ("ml-1m", "VQ-Rec"),
        ("amazon-clothing", "VQ-Rec"),
    }
    above_ndcg = {(f.target, f.method) for f in bad if f.metrics == ("ndcg@5", "mrr@5")}
    assert above_ndcg == {("amazon-clothing", "FMLP-Rec"), ("amazon-beauty", "TALLRec")}
    assert {f.method for f in bad} == {
        *("GRU4Rec", "SASRec", "FMLP-Rec", "MCRPL", "VQ-Rec", "RecFormer", "TALLRec", "LLM-REC"),
    }
    below = {f.target for f in report.findings if f.check == "below-random"}
    assert below == {"amazon-sports", "amazon-beauty", "amazon-food", "ml-1m"}
    assert any("no random row" in note for note in report.notes)


def test_a_suite_is_its_quoted_figures_and_its_runs(write_run):
    run = store_metrics(
        write_run("sasrec", outcomes_with_ranks([1, 2, 3, 9]), target="amazon-beauty"),
        {"hr@10": 0.9},
    )
    store_metrics(write_run("sasrec", outcomes_with_ranks([1, 2]), target="elsewhere"))
    quoted, stored = lint_all("table1", RunStore(write_run.root))
    assert (quoted.n_rows, quoted.n_inconsistent) == (72, 17)
    assert (stored.n_rows, stored.n_inconsistent) == (1, 1)
    assert run.run_id[:8] in stored.findings[0].method
    quoted, stored = lint_all("table2", RunStore(write_run.root))
    assert (quoted.n_rows, quoted.n_inconsistent) == (36, 7)
    assert (stored.n_rows, stored.findings) == (0, ())


def test_a_suite_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: T\nmethods: [ease]\nscales: {cpu: {targets: [nowhere]}}\n")
    (stored,) = lint_all(str(path), RunStore(tmp_path / "none"))
    assert stored.n_rows == 0


def test_quoted_figures_name_their_source():
    text = reported_path("weaverec-2025").read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert re.search(r"Tables 1 .* and 2", " ".join(head))
    assert "WeaveRec: An LLM-Based" in " ".join(head)


def test_slack_decides():
    table = read_table("method,ndcg@5,mrr@5\na,0.300,0.302\n", "x")
    assert lint_rows(table).n_inconsistent == 0  # one unit of the last place each
    assert lint_rows(table, LintOptions(slack=5e-4)).n_inconsistent == 1
    finer = read_table("method,ndcg@5,mrr@5\na,0.3000,0.3020\n", "x")
    assert lint_rows(finer).n_inconsistent == 1


def test_grim_of_a_published_table():
    """Of 30 users nobody can hit 0.45: 13 give .4333, 14 give .4667."""
    table = read_table("method,NDCG@1,NDCG@5\na,0.45,0.60\nb,0.43,0.60\nrandom,0.03,0.10\n", "x")
    assert lint_rows(table).n_grim == 0
    report = lint_rows(table, LintOptions(n_users=30))
    assert report.n_grim == 2
    (finding,) = [f for f in report.findings if f.check == "grim"]
    assert (finding.method, finding.line) == ("a", 2)
    assert "13 of them give 0.433333, 14 give 0.466667" in finding.message
    assert lint_rows(table, LintOptions(n_users=30_000)).n_grim == 0


def test_grim_keeps_away_from_ties_and_several_seeds(write_run):
    ranks = [1, 1, 2, 9, 30, 4, 1]
    runs = [
        store_metrics(write_run("a", outcomes_with_ranks(ranks[seed:] + ranks[:seed]), seed=seed))
        for seed in (0, 1)
    ]
    averaged = read_table(to_json(build_table(runs, "toyland")), "x", suffix=".json")
    assert lint_rows(averaged).n_grim == 0
    single = read_table(to_json(build_table(runs[:1], "toyland")), "x", suffix=".json")
    assert lint_rows(single).n_grim == 1


def test_random_rows_follow_the_number_of_candidates():
    text = "method,NDCG@1,NDCG@5\nrandom,0.0100,0.0295\nx,0.02,0.05\n"
    report = lint_rows(read_table(text, "x"))
    assert report.findings == ()  # 100 candidates, found from the row itself
    stated = lint_rows(read_table(text, "x"), LintOptions(n_candidates=30))
    checks = [(f.check, f.severity) for f in stated.findings]
    assert checks == [("random", "inconsistent")] * 2 + [("below-random", "warning")]


def test_percentages_without_saying_so():
    report = lint_rows(read_table("method,NDCG@5\na,31.5\n", "x"))
    assert "percentages (--percent)" in report.findings[0].message
    assert lint_rows(read_table("method,NDCG@5\na,31.5\n", "x", percent=True)).findings == ()


def test_unknown_names_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a file.*weaverec-2025.*nor a run"):
        lint("nothing", RunStore(tmp_path))
    with pytest.raises(ResultError, match="holds no runs"):
        lint(str(tmp_path), RunStore(tmp_path))
    (tmp_path / "latin.csv").write_bytes("méthode,NDCG@5\n".encode("latin-1"))
    with pytest.raises(DataError, match="byte 1 is not UTF-8"):
        lint(str(tmp_path / "latin.csv"), RunStore(tmp_path))
    with pytest.raises(ConfigError, match="unknown publication 'x'"):
        reported_path("x")


def test_the_page_runs_and_names_every_check_and_field(runs, capsys):
    page = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/lint.md", "exec"), {})
    assert "MRR@5 0.3662 is below 0.3720" in capsys.readouterr().out
    for check in ("bounds", "grim", "random", "below-random", "stored", "unread"):
        assert f"(`{check}`" in page
    (report,) = lint_all("weaverec-2025", RunStore(Path("none")))
    value = report.to_json()
    for name in (*value, *value["findings"][0]):
        assert f"`{name}`" in page
