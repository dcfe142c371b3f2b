"""Tables as they are printed: what is read out of CSV, Markdown and LaTeX."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabulate import tabulate

from bench.errors import DataError
from bench.report.lint import lint_rows, read_table
from bench.report.lint.figures import metric_name, parse_cell

WIDE = {("Sports", "GRU4Rec"): (0.1664, 0.2776), ("Beauty", "GRU4Rec"): (0.1737, 0.2901)}
WIDE |= {
    ("Sports", "WeaveRec (ours)"): (0.3897, 0.4132),
    ("Beauty", "WeaveRec (ours)"): (0.418, 0.4418),
}


def found(table) -> dict[tuple[str, str], tuple[float, ...]]:
    return {
        (row.target, row.method): tuple(cell.value for cell in row.figures.values())
        for row in table.rows
    }


LATEX = r"""
% a comment with \begin{tabular}{l} that is none
\begin{table}[t]
\caption{Everything \& more.}
\resizebox{\textwidth}{!}{%
\begin{tabular}{@{}l|cc|cc@{}}
\toprule
\multirow{2}{*}{Method} & \multicolumn{2}{c|}{\textbf{Sports}} & \multicolumn{2}{c}{Beauty} \\
\cmidrule(lr){2-3} \cmidrule(lr){4-5}
 & N@1 & M@5 & N@1 & M@5 \\ \midrule
\multicolumn{5}{l}{\textit{Single-domain methods}} \\[2pt]
GRU4Rec~\cite{gru} & .1664 & \underline{0.2776} & $0.1737_{\pm 0.002}$ & 0.2901 \\
\hline
\rowcolor{gray!20} WeaveRec (ours) & \textbf{0.3897}$^{*}$ & \textbf{\underline{0.4132}}\textsuperscript{*} &
   \cellcolor[HTML]{EEEEEE}{\bf 0.4180}\,$\pm$\,.001 & 0.4418\rlap{*} \\ \bottomrule
\end{tabular}}
\end{table}
"""

MARKDOWN = """
# Results

| Method | Sports | | Beauty | |
|:--|--:|--:|--:|--:|
| | NDCG@1 | MRR@5 | NDCG@1 | MRR@5 |
| GRU4Rec | 0.1664 | _0.2776_ | 0.1737 ± 0.0021 | 0.2901 |
| WeaveRec (ours) † | **0.3897**\\* | **<u>0.4132</u>*** | **0.4180***^ | 0.4418<sup>*</sup> |
"""

TSV = (
    "Table 1: from a page.\n\nMethod\tSports\t\tBeauty\t\n\tN@1\tM@5\tN@1\tM@5\n"
    "GRU4Rec\t0.1664\t0.2776\t0.1737\t0.2901\nWeaveRec (ours)\t0.3897*\t0.4132*\t0.4180*\t0.4418*\n"
)

LONG_CSV = """# figures of somebody
target,method,ndcg@1,mrr@5
Sports,GRU4Rec,0.1664,0.2776
Beauty,GRU4Rec,0.1737,0.2901
Sports,WeaveRec (ours),0.3897,0.4132
Beauty,WeaveRec (ours),0.4180,0.4418
"""

TRANSPOSED = """
| Dataset | Metric | GRU4Rec | WeaveRec (ours) |
|---|---|---|---|
| Sports | NDCG@1 | 0.1664 | 0.3897 |
|        | MRR@5 | 0.2776 | 0.4132 |
| Beauty | NDCG@1 | 0.1737 | 0.4180 |
|        | MRR@5 | 0.2901 | 0.4418 |
"""

PERCENT = """method;NDCG@1 (%);MRR@5 (%)
GRU4Rec;16,64;27.76%
"""

SPLIT_HEADER = r"""
\begin{tabular*}{\textwidth}{ll@{\extracolsep{\fill}}ccc}
Dataset & Model & \multicolumn{2}{c}{NDCG} & MRR \\
 & & @1 & @5 & @5 \\
\multirow{2}{*}{Sports} & GRU4Rec & 0.1664 & 0.3139 & 0.2776 \\
 & SASRec & 0.1890 & -- & 0.3132 \\
\multirow[c]{1}{*}{Beauty} & SASRec & 0.2166 & 0.3712 & 0.3239 \\
\end{tabular*}
"""


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (LATEX, ".tex"),
        (LATEX, ""),
        (MARKDOWN, ".md"),
        (MARKDOWN, ""),
        (TSV, ".tsv"),
        (TSV, ""),
        (LONG_CSV, ".csv"),
        (TRANSPOSED, ".md"),
    ],
)
def test_the_same_figures_in_every_layout(text, suffix):
    table = read_table(text, "x", suffix=suffix)
    assert found(table) == WIDE
    assert all(tuple(row.figures) == ("ndcg@1", "mrr@5") for row in table.rows)
    assert table.unread == ()


def test_lines_are_those_of_the_file():
    lines = LATEX.split("\n")
    for row in read_table(LATEX, "x", suffix=".tex").rows:
        assert row.method.split()[0] in lines[row.line - 1]
    lines = LONG_CSV.split("\n")
    for row in read_table(LONG_CSV, "x", suffix=".csv").rows:
        assert lines[row.line - 1].startswith(f"{row.target},{row.method}")


def test_cut_offs_below_their_metric_and_spanned_lines():
    table = read_table(SPLIT_HEADER, "x", suffix=".tex")
    assert [(r.target, r.method, sorted(r.figures)) for r in table.rows] == [
        ("Sports", "GRU4Rec", ["mrr@5", "ndcg@1", "ndcg@5"]),
        ("Sports", "SASRec", ["mrr@5", "ndcg@1"]),
        ("Beauty", "SASRec", ["mrr@5", "ndcg@1", "ndcg@5"]),
    ]


def test_rows_spanned_upwards_and_comments_behind_line_ends():
    text = r"""\begin{tabular}{llr}
Data & Model & NDCG@5 \\% NDCG@9 & is no column
 & GRU4Rec & 0.31\\ %
\multirow{-2}{*}{Sports} & SASRec & 0.37 \\\hline
 & SASRec & 0.36 \\
\multirow{-2}{*}{Beauty} & GRU4Rec & 12.5\,\% \\
\end{tabular}"""
    assert found(read_table(text, "x")) == {
        ("Sports", "GRU4Rec"): (0.31,),
        ("Sports", "SASRec"): (0.37,),
        ("Beauty", "SASRec"): (0.36,),
        ("Beauty", "GRU4Rec"): (0.125,),
    }


def test_three_header_lines():
    text = (
        "Method,Sports,,Beauty,\n,NDCG,MRR,NDCG,MRR\n,@5,@5,@5,@5\nSASRec,.3699,.3132,.3712,.3239\n"
    )
    assert found(read_table(text, "x", suffix=".csv")) == {
        ("Sports", "SASRec"): (0.3699, 0.3132),
        ("Beauty", "SASRec"): (0.3712, 0.3239),
    }


def test_groups_without_names_are_numbered():
    text = "Method,NDCG@5,MRR@5,NDCG@5,MRR@5\nSASRec,.3699,.3132,.3712,.3239\n"
    assert list(found(read_table(text, "x"))) == [("group 1", "SASRec"), ("group 2", "SASRec")]


def test_percentages():
    (row,) = read_table(PERCENT, "x", suffix=".csv", percent=True).rows
    assert row.figures["ndcg@1"].value == pytest.approx(0.1664)
    assert row.figures["ndcg@1"].unit == pytest.approx(1e-4)
    assert row.figures["mrr@5"].value == pytest.approx(0.2776)


def test_users_seeds_and_candidates_are_read():
    text = (
        "### amazon-beauty\n\n| Method | S | n | NDCG@1 |\n|:--|--:|--:|--:|\n| ease | 3 | 22,363 | 0.2681 |\n"
        "\n- Leave-one-out, 30 candidates per user.\n"
    )
    (row,) = read_table(text, "x", suffix=".md").rows
    assert (row.target, row.n_seeds, row.n_users, row.n_candidates) == (
        "amazon-beauty",
        3,
        22363,
        30,
    )
    varying = text.replace("30 candidates", "17,000 to 18,000 candidates")
    assert read_table(varying, "x", suffix=".md").rows[0].n_candidates is None


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("0.1234", 0.1234, 1e-4),
        (".5", 0.5, 0.1),
        ("12.3%", 0.123, 1e-3),
        ("0.31 ± 0.02", 0.31, 1e-2),
        ("0.31 (0.02)", 0.31, 1e-2),
        ("0.31 +/- 0.02", 0.31, 1e-2),
        ("1.5e-2", 0.015, 1e-3),
        ("0.4 *^†", 0.4, 0.1),
    ],
)
def test_figures_and_their_last_place(text, value, unit):
    cell = parse_cell(text)
    assert cell is not None
    assert (cell.value, cell.unit) == (pytest.approx(value), pytest.approx(unit))


@pytest.mark.parametrize("text", ["0.3l39", "abc", "1.2.3", "0.1 0.2", "1e", "0e999", "9" * 400])
def test_what_is_no_figure(text):
    assert parse_cell(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NDCG@5", "ndcg@5"),
        ("N@1", "ndcg@1"),
        ("ndcg @10 ↑", "ndcg@10"),
        ("Recall@20", "hr@20"),
        ("Hit Rate@5 (%)", "hr@5"),
        ("H@1", "hr@1"),
        ("MRR", "mrr"),
        ("AUC", "auc"),
        ("ndcg@5_low", None),
        ("Precision@5", None),
        ("Method", None),
        ("m", None),
    ],
)
def test_names_of_metrics(text, name):
    assert metric_name(text) == name


def test_a_figure_that_cannot_be_read_is_reported():
    table = read_table("method,ndcg@1,ndcg@5\na,0.1,0.3l\nb,0.2,0.3\n", "x", suffix=".csv")
    assert table.unread == ((2, "0.3l"),)
    assert [row.method for row in table.rows] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "no table at all\n", "a,b\n1,2\n", "method,ndcg@5\nx,–\n"])
def test_a_file_without_figures_says_what_was_looked_for(text):
    with pytest.raises(DataError, match=r"report\.csv: no figures found .* NDCG@k"):
        read_table(text, "report.csv", suffix=".csv")


def test_a_foreign_json_is_refused():
    with pytest.raises(DataError, match="not the JSON of a leaderboard"):
        read_table("{}", "x.json", suffix=".json")


@pytest.mark.parametrize(
    "name",
    ["Improv.", "Improvement (%)", "Rel. Impr.", "%Improv", "Imp.", "Gain", "p-value", "Δ gain"],
)
def test_rows_of_improvements_are_no_figures(name):
    text = (
        f"| Method | NDCG@1 | NDCG@5 |\n|--|--|--|\n| a | 0.2 | 0.3 |\n| {name} | 5.1% | 2.0% |\n"
    )
    assert [row.method for row in read_table(text, "x", suffix=".md").rows] == ["a"]
    text = (
        f"| Metric | a | {name} |\n|--|--|--|\n| NDCG@1 | 0.2 | 5.1% |\n| NDCG@5 | 0.3 | 2.0% |\n"
    )
    assert [row.method for row in read_table(text, "x", suffix=".md").rows] == ["a"]


def test_methods_that_begin_like_an_improvement_are_kept():
    text = "method,NDCG@1\nImpressionNet,0.2\nGainRec,0.2\nimproved-sasrec,0.2\nP5,0.2\n"
    names = [row.method for row in read_table(text, "x").rows]
    assert names == ["ImpressionNet", "GainRec", "improved-sasrec", "P5"]


NAMES = st.text(
    st.characters(codec="utf-8", categories=("Lu", "Ll"), exclude_characters="\\"),
    min_size=1,
    max_size=8,
).map(lambda name: f"M {name}")
FIGURES = st.lists(
    st.tuples(NAMES, st.lists(st.integers(0, 10_000), min_size=3, max_size=3)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(
    FIGURES,
    st.sampled_from(["pipe", "github", "latex", "latex_booktabs", "latex_longtable", "tsv"]),
)
def test_tables_of_another_writer_come_back(rows, style):
    """tabulate writes, we read."""
    printed = [[name, *(f"{value / 10_000:.4f}" for value in values)] for name, values in rows]
    text = tabulate(printed, ["Method", "NDCG@1", "NDCG@5", "MRR@5"], style, disable_numparse=True)
    table = read_table(text, "x")
    assert [(row.method, [cell.text for cell in row.figures.values()]) for row in table.rows] == [
        (" ".join(name.split()), figures) for name, *figures in printed
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "NDCG@5",
                    "MRR@5",
                    "0.31",
                    "1e999",
                    "-",
                    "|",
                    "&",
                    "\\\\",
                    "\n",
                    "\t",
                    ",",
                    "{",
                    "}",
                    "$",
                    "%",
                ),
                *(
                    "\\begin{tabular}{ll}",
                    "\\end{tabular}",
                    "\\multicolumn{2}{c}",
                    "\\multirow{9}{*}",
                    "|--|",
                    "#",
                ),
                *(
                    "**",
                    "_",
                    "<u>",
                    "\\",
                    '"',
                    "[",
                    "]",
                    "@1",
                    "NDCG",
                    "method",
                    " ",
                    "\x00",
                    "±",
                    "1" * 400,
                ),
            ]
        ),
        max_size=40,
    ).map("".join),
    st.sampled_from(["", ".csv", ".md", ".tex", ".json"]),
)
def test_no_text_breaks_the_reader(text, suffix):
    """Whatever stands in a file: figures, or an error that names it."""
    try:
        table = read_table(text, "the file", suffix=suffix)
    except DataError as error:
        assert "the file" in str(error)
    else:
        assert lint_rows(table).n_rows == len(table.rows) > 0


def tabular(*rows: str) -> str:
    body = " \\\\\n".join(("M & NDCG@5", *rows, "A & 0.5"))
    return "\\begin{tabular}{lr}\n" + body + " \\\\\n\\end{tabular}\n"


QUICK = {
    "columns": (".tex", tabular(r"\multicolumn{99999999}{c}{x} & 1")),
    "digits": (".tex", tabular(r"\multicolumn{" + "9" * 6000 + "}{c}{x} & 1")),
    "rows": (".tex", tabular(r"\multirow{999999999}{*}{x} & 0.1")),
    "rows upwards": (".tex", tabular(r"\multirow{-999999999}{*}{x} & 0.1")),
    "nested commands": (".tex", tabular("\\a{" * 3000 + "x" + "}" * 3000 + " & 0.1")),
    "nested spans": (".tex", tabular("\\multicolumn{2}{c}{" * 3000 + "x" + "}" * 3000 + " & 1")),
    "blanks": (".tex", tabular("\\a" + " " * 30_000 + "x & 0.1")),
    "stars": (".md", "|M|NDCG@5|\n|-|-|\n|" + "*a " * 20_000 + "|0.5|\n|A|0.5|\n"),
    "superscripts": (".md", "|M|NDCG@5|\n|-|-|\n|" + "<sup>" * 20_000 + "|0.5|\n|A|0.5|\n"),
    "heading": (".md", "#" + " " * 50_000 + "x" + " " * 50_000 + "y\n|M|NDCG@5|\n|-|-|\n|A|0.5|\n"),
    "candidates": (".csv", "# " + "9" * 3000 + " candidates per user\nM,NDCG@5\nA,0.5\n"),
}


@pytest.mark.parametrize("case", QUICK)
@pytest.mark.timeout(60)
def test_hostile_tables_are_read_in_time(case):
    suffix, text = QUICK[case]
    values = found(lint_table := read_table(text, "t", suffix=suffix))
    assert (0.5,) in values.values()
    assert lint_rows(lint_table).n_rows >= 1


REFUSED = {
    "spans side by side": (
        ".tex",
        tabular(r"\multicolumn{199}{c}{x} & " * 50 + "1"),
        "2,000 cells",
    ),
    "tables in tables": (".tex", r"\begin{tabular}{l}" * 3000 + tabular(), "2,000,000 characters"),
    "a cell of a CSV": (".csv", "M,NDCG@5\n" + "a" * 200_000 + ",0.5\n", "field limit"),
    "too long": (".md", "x" * 5_000_001, "at most 5,000,000"),
    "deep JSON": (".json", "[" * 50_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.timeout(60)
def test_tables_that_are_no_tables_are_refused(case):
    suffix, text, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read_table(text, "t", suffix=suffix)
