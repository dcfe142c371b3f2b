"""LaTeX: escaped, aligned, and compiled where TeX is present."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from report_runs import random_outcomes

from bench.report.latex import escape_latex, to_latex
from bench.report.leaderboard import build_table
from bench.report.reported import load_publication
from bench.report.suite_table import build_suite
from bench.suites import Suite

HOSTILE = r"a\b{c}_d^e~f#g$h%i&j<k>l|m\"n`o--p\input{/etc/passwd}"


def _hostile_table(write_run, **options):
    runs = [
        write_run("knn", random_outcomes(400, 0), trainable=False),
        write_run("net", random_outcomes(400, 1), row_note=HOSTILE, overrides={"x": HOSTILE}),
    ]
    return build_table(runs, "toyland", all_configs=True, **options)


def _suite(write_run, targets=("toyland", "seaside"), **options):
    for target in targets:
        for seed in range(3):
            write_run(
                "net",
                random_outcomes(500, seed, skill=3),
                target=target,
                seed=seed,
                task=target[0] * 64,
                family="single-domain",
                trainable=True,
            )
        write_run(
            "knn", random_outcomes(500, 9), target=target, task=target[0] * 64, trainable=False
        )
    from bench.runs.store import RunStore

    suite = Suite.model_validate(
        {
            "name": "two_targets",
            "title": "Two & more",
            "methods": ["knn", "net", "absent"],
            "scales": {"cpu": {"targets": [*targets, "desert"]}},
        }
    )
    return build_suite(RunStore(write_run.root).list(), suite, ci=True, **options)


def test_every_special_character_is_escaped():
    text = escape_latex(r"\ & % $ # _ { } ~ ^")
    assert text == (r"\textbackslash{} \& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{}")
    assert "--" not in escape_latex("a--b---c")
    assert escape_latex("a-b") == "a-b"
    assert escape_latex("a\nb\x07c") == "a b c"


def test_no_command_of_a_name_survives(write_run):
    text = to_latex(_hostile_table(write_run))
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"x=passwd\}" in text  # a path in a setting is cut to its name


def test_rows_have_as_many_cells_as_the_table_has_columns(write_run):
    text = to_latex(_hostile_table(write_run, ci=True, costs=True))
    spec = re.search(r"\{@\{\}([lr]+)@", text)[1]
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert len(lines) == 4  # heading, two methods, the closed form
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(spec) - 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"\hline" not in text and "|" not in spec


def test_a_sign_takes_no_width(write_run):
    text = to_latex(_suite(write_run))
    assert text.count(r"\rlap{\textsuperscript{\ensuremath{*}}}") == 2
    assert "Holm over the 2 targets" in text


def test_suite_is_one_wide_table_with_a_group_per_target(write_run):
    text = to_latex(_suite(write_run))
    assert text.count(r"\begin{tabular}") == 1 and r"\begin{table*}" in text
    assert r"\multicolumn{4}{c}{toyland} & \multicolumn{4}{c}{seaside}" in text
    assert r"\cmidrule(lr){4-7} \cmidrule(lr){8-11}" in text
    absent = next(line for line in text.splitlines() if "absent" in line and line.endswith(r"\\"))
    assert absent.count("---") == 8
    net = next(line for line in text.splitlines() if "& net &" in line)
    assert net.split("&")[2].strip() == "3"
    assert r"Two \& more." in text and "desert" in text


def test_a_wide_table_has_costs_and_ranks_per_target_on_request(write_run):
    text = to_latex(_suite(write_run, costs=True, ranks=True))
    assert text.count(r"Rank & Own s & Total s & Peak MB") == 2
    assert r"\multicolumn{8}{c}{toyland} & \multicolumn{8}{c}{seaside}" in text
    spec = re.search(r"\{@\{\}([lr]+)@", text)[1]
    rows = [x for x in text.splitlines() if x.endswith(r" \\") and "multicolumn" not in x]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
    net = next(row for row in rows if "& net &" in row)
    assert net.split("&")[8].strip() == "2.6"  # 2.5 s of training and 0.1 s of scoring


def test_seeds_are_told_per_target_where_they_differ(write_run):
    assert "Family & Method & S & NDCG@1" in to_latex(_suite(write_run))
    write_run(
        "net", random_outcomes(500, 7, skill=3), seed=3, task="t" * 64, family="single-domain"
    )
    from bench.report.suite_table import build_targets
    from bench.runs.store import RunStore

    text = to_latex(build_targets(RunStore(write_run.root).list(), ["toyland", "seaside"]))
    assert r"\multicolumn{5}{c}{toyland}" in text and "Family & Method & S & NDCG@1" in text
    cells = next(line for line in text.splitlines() if "& net &" in line).split("&")
    assert (cells[2].strip(), cells[7].strip()) == ("4", "3")


@pytest.mark.parametrize(("n", "panels"), [(4, [4]), (5, [3, 2]), (6, [3, 3]), (9, [3, 3, 3])])
def test_targets_that_would_not_be_legible_side_by_side_stand_in_several_floats(
    write_run, n, panels
):
    targets = [f"{letter}land" for letter in "abcdefghi"[:n]]
    for i, target in enumerate(targets):
        write_run("knn", random_outcomes(40, i), target=target, task=target[0] * 64)
    from bench.report.suite_table import build_targets
    from bench.runs.store import RunStore

    text = to_latex(build_targets(RunStore(write_run.root).list(), targets))
    found = [part.split(r"\end{tabular}")[0] for part in text.split(r"\begin{tabular}")[1:]]
    assert [len(re.findall(r"\\multicolumn\{4\}\{c\}", part)) for part in found] == panels
    assert re.findall(r"\\multicolumn\{4\}\{c\}\{(\w+)\}", text) == targets
    assert text.count(r"\begin{table*}") == text.count(r"\caption{") == len(panels)
    assert text.count(r"\addtocounter{table}{-1}") == len(panels) - 1
    assert text.count(r"\label{") == text.count(r"\begin{minipage}") == 1
    for part in found:
        (row,) = (line for line in part.splitlines() if "& knn" in line)
        heading = next(line for line in part.splitlines() if line.startswith("Family"))
        assert row.count("&") == heading.count("&")


def _missing_tex():
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return "pdflatex is not installed"
    for name in ("booktabs.sty", "graphicx.sty"):
        found = subprocess.run(["kpsewhich", name], capture_output=True, check=False)
        if found.returncode:
            return f"TeX lacks {name}"
    return None


@pytest.mark.skipif(_missing_tex() is not None, reason=str(_missing_tex()))
def test_tables_compile(write_run, tmp_path):
    quoted = load_publication("weaverec-2025")
    runs = [write_run("knn", random_outcomes(300, 5), target="ml-1m", task="e" * 64)]
    tables = [
        _hostile_table(write_run, ci=True, costs=True, reference="knn"),
        _suite(write_run, ("lake", "seaside"), costs=True, ranks=True),
        build_table(runs, "ml-1m", publication=quoted),
    ]
    body = "\n".join(to_latex(table) for table in tables)
    source = (
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{body}\\end{{document}}\n"
    )
    (tmp_path / "t.tex").write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000
    assert "Missing character" not in (tmp_path / "t.log").read_text(errors="replace")
