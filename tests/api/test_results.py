"""`load_runs`, `table` and `compare`: what stands in frames, tables and tests."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import bench
from bench.cli import app
from bench.errors import ConfigError, MissingExtraError, MissingRunError, ResultError

NAMES = ("item-knn", "popularity", "markov")


def cli(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), prog_name="bench")
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def results(home):
    return [bench.run(name, "ml100k-drama") for name in NAMES]


def test_runs_are_a_sequence_and_a_tidy_frame(results):
    runs = bench.load_runs()
    assert [run.method for run in runs] == sorted(NAMES)
    assert repr(runs) == "Runs(3 runs of 3 methods on ml100k-drama)"
    assert repr(runs[1:]) == "Runs(2 runs of 2 methods on ml100k-drama)"
    assert repr(bench.load_runs(target="nowhere")) == "Runs(0 runs of 0 methods)"
    frame = runs.to_frame()
    assert isinstance(frame, pd.DataFrame)
    named = frame.set_index(["method", "metric"]).loc[("markov", "mrr@5")]
    value = results[2].run.metrics["metrics"]["mrr@5"]
    assert [named["mean"], named["lo"], named["hi"]] == [value["mean"], *value["ci95"]]
    assert not frame.duplicated(["run_id", "metric"]).any()
    assert runs.to_frame("polars").rows() == list(frame.itertuples(index=False, name=None))
    assert list(runs[:0].to_frame().columns) == list(frame.columns)
    assert str(runs).splitlines() == cli("runs", "list").splitlines()
    assert runs._repr_html_().count("<tr>") == 4


def test_a_frame_names_the_library_that_is_absent(results, monkeypatch):
    runs = bench.load_runs()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        MissingExtraError, match=r"weavebench\[models\].*another kind of data frame: polars"
    ):
        runs.to_frame()
    assert len(runs.to_frame("polars"))
    with pytest.raises(ConfigError, match="Did you mean 'polars'"):
        runs.to_frame("polar")


def test_several_stores_are_one_collection_and_damage_is_told(results, home):
    other = bench.run("random", "ml100k-drama", store="other")
    runs = bench.load_runs(["bench-runs", home / "other", "bench-runs"])
    assert sorted(run.method for run in runs) == sorted([*NAMES, "random"])
    (other.run.path / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*damaged run"):
        assert len(bench.load_runs("other")) == 0
    damaged: list = []
    assert len(bench.load_runs("other", damaged=damaged)) == 0
    assert [one.path.name for one in damaged] == [other.run.path.name]


def test_published_runs_are_read_where_there_are_some(results, home, monkeypatch):
    cli("runs", "export", results[0].run.run_id, "--publish", "--out", "out")
    monkeypatch.setenv("BENCH_PUBLISHED", str(home / "out"))
    runs = bench.load_runs("empty", published=True)
    assert [run.run_id for run in runs] == [results[0].run.run_id]
    assert "--published" in bench.table(runs).to_markdown()


def test_a_table_is_that_of_the_command_line(results):
    table = bench.table(bench.load_runs(), ci=True, metrics=["hr@10"])
    words = ("leaderboard", "--target", "ml100k-drama", "--ci", "--metrics", "hr@10", "--format")
    for kind in ("markdown", "latex", "html", "csv", "json"):
        assert getattr(table, f"to_{kind}")() == cli(*words, kind)
    assert str(table) == table._repr_markdown_() == table.to_markdown()
    assert table._repr_html_() == table.to_html()
    assert repr(table) == "Leaderboard(ml100k-drama, 4 rows by NDCG@5)"
    frame = table.to_frame().set_index(["label", "metric"])
    record = json.loads(table.to_json())["blocks"][0]["rows"]
    for row in record:
        for metric, value in row["metrics"].items():
            found = frame.loc[(row["label"], metric)]
            assert [found["mean"], found["lo"], found["hi"]] == [value["mean"], *value["ci95"]]
    plain = bench.table(results).to_frame("polars")
    assert plain["lo"].is_nan().all() and not plain["mean"].is_nan().any()


def test_targets_of_a_table_are_one_family(results):
    other = bench.run("item-knn", "ml100k-comedy")
    table = bench.table([*results, other])
    assert [one.target for one in table.tables] == ["ml100k-drama", "ml100k-comedy"]
    assert {one.significance.family for one in table.tables} == {2}
    one = bench.table([*results, other], "ml100k-comedy")
    assert one.tables[0].significance.family == 1
    words = ("--suite", "reference", "--scale", "embedded", "--format", "csv")
    suite = bench.table(bench.load_runs(), suite="reference", scale="embedded")
    assert suite.to_csv() == cli("leaderboard", *words)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"suite": "table1", "target": "x"}, "give one of the two"),
        ({"suite": "table1", "profile": "cpu"}, "a suite declares its own"),
        ({"scale": "cpu"}, "scale belongs to a suite"),
        ({"target": ["a", "b"], "task": "0"}, "task belongs to a single target"),
        ({"suite": "tabel1"}, "Did you mean 'table1'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(results, options, told):
    with pytest.raises(ConfigError, match=told):
        bench.table(results, **options)


def test_what_is_no_run_is_refused(home):
    with pytest.raises(ConfigError, match="is no run"):
        bench.table(["item-knn"])
    with pytest.raises(MissingRunError, match="a table of no runs"):
        bench.table([])


def test_a_comparison_prints_itself(results):
    found = bench.compare(results[0], results[1].run)
    assert repr(found) + "\n" == cli("compare", *(r.run.run_id for r in results[:2]))
    assert "<pre>ml100k-drama: NDCG@5" in found._repr_html_()
    (pair,) = found.pairs
    row = found.to_frame().iloc[0]
    assert (row["a"], row["b"]) == ("item-knn", "popularity")
    assert (row["difference"], row["p"]) == (pair.test.difference, pair.test.p)
    gap = results[0].figures["ndcg@5"]["mean"] - results[1].figures["ndcg@5"]["mean"]
    assert pair.test.difference == pytest.approx(gap)


def test_rows_of_a_target_are_compared_as_on_the_command_line(results):
    words = ("compare", "--target", "ml100k-drama", "--reference", "popularity", "--also", "flips")
    found = bench.compare(
        bench.load_runs(), target="ml100k-drama", reference="popularity", also=["flips"]
    )
    assert repr(found) + "\n" == cli(*words)
    assert [pair.b for pair in found.pairs] == ["popularity"] * 2
    for options, told in (
        ({"methods": ["markov"]}, "methods without a target"),
        ({"target": "ml100k-drama", "methods": ["marcov"]}, "Did you mean 'markov'"),
    ):
        with pytest.raises(ConfigError, match=told):
            bench.compare(results, **options)
    with pytest.raises(ResultError, match="at least two"):
        bench.compare(results[0])
