"""`bench leaderboard --format html --out FOLDER` and `bench plot`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.plot import CostName
from bench.report.costs import COSTS


@pytest.fixture
def stored(cli, tiny) -> str:
    cli("run", "--method", "popularity,item-knn", "--target", tiny, "--quiet")
    return tiny


def test_choices_are_the_costs_of_the_package():
    assert [name.value for name in CostName] == list(COSTS)


def test_a_folder_becomes_a_site_and_a_file_a_fragment(cli, stored):
    result = cli("leaderboard", "--target", stored, "--format", "html", "--out", "public")
    assert "wrote public/index.html" in result.stderr
    page = Path("public/index.html").read_text()
    assert page.startswith("<!doctype html>")
    assert f"bench leaderboard --target {stored} --format html --out public" in page
    assert Path("public/methods/item-knn.html").is_file()
    cli("leaderboard", "--target", stored, "--format", "html", "--out", "table.html")
    assert Path("table.html").read_text().startswith("<table")


def test_plot_writes_the_file_that_was_asked_for(cli, stored):
    cli("plot", "--target", stored, "--out", "cost.svg", "--cost", "score", "--metric", "auc")
    assert "Scoring, wall time per user (ms, log scale)" in Path("cost.svg").read_text()
    cli("plot", "--target", stored, "--out", "intervals.png", "--kind", "intervals")
    assert Path("intervals.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_figure_is_refused_before_any_work(cli):
    result = cli("plot", "--target", "nowhere", "--out", "figure.gif", code=2)
    assert ".png, .svg, .pdf" in result.stderr
