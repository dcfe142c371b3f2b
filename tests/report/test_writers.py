"""Markdown, CSV and JSON of one table say the same, and survive awkward names."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from report_runs import outcomes_with_ranks, random_outcomes

from bench.report import grid, writers
from bench.report.columns import COLUMNS, Column, Page
from bench.report.leaderboard import (
    build_table,
    to_csv,
    to_html,
    to_json,
    to_latex,
    to_markdown,
)
from bench.report.site import Board, index, write_site
from bench.report.writers import as_text


@pytest.fixture
def table(write_run):
    runs = [
        write_run("knn", random_outcomes(1200, 0)),
        write_run("ease", random_outcomes(1200, 1, skill=0.5)),
        write_run("sasrec", random_outcomes(1200, 2, skill=2), family="single-domain"),
        write_run(
            "llm",
            random_outcomes(10, 3),
            family="llm",
            users=np.arange(10),
            n_total=1200,
        ),
    ]
    return build_table(runs, "toyland", ci=True)


def markdown_rows(text):
    """Cells of the body lines of all tables in a Markdown text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "Family" and not row[0].startswith(":-")]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_a_csv_is_a_formula_and_figures_stay_numbers(table, start):
    hostile = f"{start}cmd|' /C calc'!A0"
    (block, *rest) = table.blocks
    rows = (replace(block.rows[0], label=hostile, provenance=hostile), *block.rows[1:])
    changed = replace(table, blocks=(replace(block, rows=rows), *rest))
    lines = list(csv.DictReader(io.StringIO(to_csv(changed), newline="")))
    wanted = {"\t": "\\t", "\r": "\\x0d"}.get(start, f"'{start}") + hostile[1:]
    assert lines[0]["label"] == lines[0]["provenance"] == wanted
    plain = list(csv.DictReader(io.StringIO(to_csv(table), newline="")))
    assert [line["label"] for line in lines[1:]] == [line["label"] for line in plain[1:]]
    for line in lines:
        assert float(line["ndcg@5"]) >= 0
    assert as_text("knn") == "knn"


def test_json_of_a_table_drives_no_terminal_and_keeps_its_value(table):
    changed = replace(table, target="toy\u202eland\x9b31m")
    text = to_json(changed)
    assert json.loads(text)["target"] == "toy\u202eland\x9b31m"
    assert "\u202e" not in text and "\x9b" not in text


def test_markdown_has_every_row_with_its_marks(table):
    rows = markdown_rows(to_markdown(table))
    assert [row[1] for row in rows] == ["knn", "ease", r"random (closed form)", "sasrec", "llm"]
    assert [row[0] for row in rows] == ["Reference", "", "", "Single-domain", "LLM"]
    assert [row[3] for row in rows] == ["1,200", "1,200", "1,200", "1,200", "10"]
    for column in range(4, 8):
        cells = [row[column] for row in rows]
        assert cells[3].startswith("**") and cells[0].startswith("_")
        assert not any(mark in "".join(cells[1:3] + cells[4:]) for mark in "*_")


def test_markdown_shows_four_digits_of_the_json_figures(table):
    value = json.loads(to_json(table))
    rows = [row for block in value["blocks"] for row in block["rows"]]
    for cells, row in zip(markdown_rows(to_markdown(table)), rows, strict=True):
        for cell, metric in zip(cells[4:8], table.metrics, strict=True):
            assert float(cell.strip("*_")) == round(row["metrics"][metric]["mean"], 4)


def test_csv_and_json_hold_the_same_figures_in_full(table):
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    value = json.loads(to_json(table))
    rows = [row for block in value["blocks"] for row in block["rows"]]
    for line, row in zip(lines, rows, strict=True):
        assert line["label"] == row["label"]
        assert line["task_hash"] == value["protocol"]["task_hash"]
        assert line["run_ids"].split() == row["run_ids"]
        for metric, figure in row["metrics"].items():
            assert float(line[metric]) == figure["mean"]
            assert [float(line[f"{metric}_low"]), float(line[f"{metric}_high"])] == figure["ci95"]
    assert [line["block"] for line in lines] == ["main"] * 4 + ["other-users"]


def test_caption_tells_protocol_candidates_users_and_marks(table):
    text = to_markdown(table)
    for part in (
        "30 candidates per user",
        "uniform negatives",
        "candidates cccccccccc.",
        "Task aaaaaaaaaa,",
        "n = 1,200 of 1,200 test users",
        "Leak guard full",
        "Bold: the best displayed figure",
        "(italics in Markdown): the next distinct one",
        'Rows under "Other users"',
        "`bench leaderboard --target toyland --ci`",
    ):
        assert part in text, part
    assert "<" not in text.replace(r"\<", ""), "Markdown without HTML"


def test_without_intervals_nothing_is_said_about_them(write_run):
    table = build_table([write_run("knn", random_outcomes(30, 0))], "toyland")
    assert "CI" not in to_markdown(table)
    assert "_low" not in to_csv(table)
    assert "ci95" not in to_json(table)


def test_names_cannot_break_a_table(write_run):
    awkward = 'a|b*c_d`e<i>, "q"'
    run = write_run("plugin", outcomes_with_ranks([1, 2]), overrides={"x": awkward})
    table = build_table([run], "toyland", all_configs=True)
    label = f"plugin (x={awkward})"
    line = next(x for x in to_markdown(table).splitlines() if "plugin" in x)
    assert r"a\|b\*c\_d\`e\<i\>" in line
    assert line.replace(r"\|", "").count("|") == 9
    assert label in {row["label"] for row in csv.DictReader(io.StringIO(to_csv(table)))}
    rows = json.loads(to_json(table))["blocks"][0]["rows"]
    assert label in {row["label"] for row in rows}


def test_files_end_with_one_newline(table):
    for write in (to_markdown, to_csv, to_json):
        text = write(table)
        assert text.endswith("\n") and not text.endswith("\n\n") and "\r" not in text


def test_a_column_that_is_described_once_stands_in_every_format_and_on_the_page(
    table, tmp_path, monkeypatch
):
    extra = Column(
        "shares.users",
        lambda row: row.n_users / 1200 or None,
        "Share",
        text=lambda share: f"{share:.0%}",
        csv=("share_users",),
        page=Page("Share", "number"),
    )
    for module in (grid, writers, index):
        monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, extra))
    knn = next(row for row in table.rows if row.method == "knn")
    assert knn.n_users == 1200
    head, *body = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert head.rstrip("| ").endswith("Share")
    assert next(line for line in body if " knn " in line).rstrip("| ").endswith("100%")
    (line,) = (line for line in to_latex(table).splitlines() if "& knn &" in line)
    assert line.endswith(r"& 100\% \\")
    assert '<td class="figure">100%</td></tr>' in to_html(table)
    lines = csv.DictReader(io.StringIO(to_csv(table)))
    assert {line["method"]: line["share_users"] for line in lines}["llm"] == repr(10 / 1200)
    rows = json.loads(to_json(table))["blocks"][0]["rows"]
    assert {row["method"]: row["shares"]["users"] for row in rows}["knn"] == 1.0
    page = write_site([Board(table, table.metrics)], [], tmp_path / "site").read_text()
    assert page.count('<th scope="col" class="number">Share</th>') == len(table.blocks)
    assert '<td class="number">1%</td>' in page
