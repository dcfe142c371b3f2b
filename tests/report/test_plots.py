"""Figures as files, and the costs behind them."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from report_runs import random_outcomes

from bench.errors import ConfigError, MissingExtraError
from bench.report import plots
from bench.report.costs import COSTS, cost_of, points, runs_by_id
from bench.report.leaderboard import build_table
from bench.report.plots import cost_figure, interval_figure, write_figure

# What a method notes of itself is free text.
WEIRD = "$weird_{note}$ <b>"


@pytest.fixture
def runs(write_run):
    return [
        write_run("popularity", random_outcomes(200, 1, 0.5), fit=0.0),
        write_run("sasrec", random_outcomes(200, 2, 1.2), seed=0, family="single-domain", fit=30.0),
        write_run("sasrec", random_outcomes(200, 3, 1.2), seed=1, family="single-domain", fit=50.0),
        write_run("weird", random_outcomes(200, 4, 0.8), family="made-up", row_note=WEIRD, fit=2.0),
    ]


@pytest.fixture
def table(runs):
    return build_table(runs, "toyland", ci=True)


def test_costs_are_means_over_runs(table, runs):
    found = {point.row.method: point.cost for point in points(table, runs, "fit")}
    assert found == {"popularity": 0.0, "sasrec": 40.0, "weird": 2.0}
    score = {point.row.method: point.cost for point in points(table, runs, "score")}
    assert score["sasrec"] == pytest.approx(1000 * 0.1 / 200)


@pytest.mark.parametrize("value", ["12", None, True, float("nan"), float("inf"), -1, {}])
def test_a_cost_that_is_no_number_is_unknown(value):
    for cost in COSTS.values():
        manifest = {
            "seconds": {"fit": value, "score": value, "total_with_adapters": value},
            "cpu_seconds": {"total": value},
            "peak_memory": {"mb": value},
            "users": {"n_users": 10},
        }
        assert cost.read(manifest) is None
        assert cost.read({}) is None
        assert cost.read({"seconds": [], "cpu_seconds": 3, "peak_memory": "x"}) is None


def test_a_row_of_which_one_run_lacks_a_cost_has_none(table, runs):
    (row,) = [row for row in table.rows if row.method == "sasrec"]
    known = runs_by_id(run for run in runs if run.seed == 0)
    assert cost_of(row, known, COSTS["fit"]) is None


def test_unknown_cost_names_the_known_ones(table, runs):
    with pytest.raises(ConfigError, match="fit"):
        points(table, runs, "fitt")


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_figures_are_written_and_repeat_byte_for_byte(table, runs, tmp_path, suffix, start):
    for name, draw in (
        ("cost", lambda: cost_figure(table, runs, "ndcg@5", "fit")),
        ("intervals", lambda: interval_figure(table, "ndcg@5")),
    ):
        first, second = tmp_path / f"{name}-1{suffix}", tmp_path / f"{name}-2{suffix}"
        write_figure(draw(), first)
        write_figure(draw(), second)
        assert first.read_bytes().startswith(start)
        assert first.read_bytes() == second.read_bytes()


def test_figure_shows_the_points_of_the_table(table, runs):
    (axes,) = cost_figure(table, runs, "ndcg@5", "fit").axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    found = sorted((float(d.get_xdata()[0]), float(d.get_ydata()[0])) for d in dots)
    means = {row.method: row.figures["ndcg@5"].mean for row in table.rows}
    assert found == sorted(
        [(1e-3, means["popularity"]), (40.0, means["sasrec"]), (2.0, means["weird"])]
    )
    labels = {text.get_text() for text in axes.texts}
    assert labels == {"popularity", "sasrec", f"weird ({WEIRD})", "random"}


def test_names_stay_text_in_svg(table, runs, tmp_path):
    write_figure(interval_figure(table, "ndcg@5"), tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "$weird_{note}$ &lt;b&gt;" in text
    assert "<b>" not in text


def test_wrong_use_is_explained(table, runs, tmp_path):
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        write_figure(interval_figure(table, "ndcg@5"), tmp_path / "figure.gif")
    with pytest.raises(ConfigError, match="ndcg@1"):
        interval_figure(table, "ndcg@7")
    with pytest.raises(ConfigError, match="no row of toyland"):
        cost_figure(table, runs, "ndcg@5", "memory")


def test_missing_library_names_the_command(table, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"weavebench\[plot\]"):
        interval_figure(table, "ndcg@5")


def test_colours_are_those_of_the_page():
    sheet = (resources.files("bench.report.site") / "assets/site.css").read_text()
    found = dict(re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}),", sheet))
    assert {family: found[family] for family in plots._COLOURS} == plots._COLOURS
    assert (found["other"], found["ink"], found["soft"], found["line"]) == (
        plots._OTHER, plots._INK, plots._SOFT, plots._LINE,
    )  # fmt: skip
