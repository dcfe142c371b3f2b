"""Stars and ``^`` in tables: where they stand, what is said where they do not, missing and quoted rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from report_runs import outcomes_with_ranks, random_outcomes
from scipy import stats

from bench.errors import ConfigError, ResultError
from bench.evaluation import metric_per_user
from bench.report.leaderboard import build_table, to_csv, to_html, to_json, to_latex, to_markdown
from bench.report.reported import Publication, load_publication, publications
from bench.report.suite_table import build_suite
from bench.suites import Suite, load_suite, suite_names


def signs(table):
    return {row.label: row.signs for row in table.rows}


def trained(write_run, method, skill, *, first=0, n=2000, seeds=3, **more):
    return [
        write_run(
            method,
            random_outcomes(n, first + seed, skill=skill),
            seed=seed,
            trainable=True,
            family="single-domain",
            **more,
        )
        for seed in range(seeds)
    ]


def test_a_clear_winner_with_three_seeds_is_starred_on_the_primary_metric_only(write_run):
    runs = trained(write_run, "good", 2.0) + trained(write_run, "poor", 1.0, first=10)
    table = build_table(runs, "toyland")
    assert signs(table) == {"good": ("star",), "poor": (), "random (closed form)": ()}
    line = next(x for x in to_markdown(table).splitlines() if "| good " in x)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [cell.endswith(r"**\*") for cell in cells[4:]] == [False, False, True, False]
    assert "Starred. good leads; its hardest rival is poor" in to_markdown(table)


def test_one_seed_of_a_trained_rival_takes_the_star_and_prints_the_checkpoint_p(write_run):
    good = trained(write_run, "good", 1.6)
    poor = trained(write_run, "poor", 1.5, first=10, seeds=1)
    table = build_table([*good, *poor], "toyland")
    assert set(signs(table).values()) == {()}
    found = table.significance
    assert "one training seed of poor" in found.reason and found.p is None
    a = np.mean([metric_per_user(run.outcomes(), "ndcg@5") for run in good], axis=0)
    b = metric_per_user(poor[0].outcomes(), "ndcg@5")
    assert found.p_users == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-5)
    assert "this checkpoint only" in to_markdown(table)


def test_methods_without_training_can_be_starred_with_one_run(write_run):
    runs = [
        write_run("knn", random_outcomes(2000, 0, skill=2), trainable=False),
        write_run("ease", random_outcomes(2000, 1, skill=1), trainable=False),
    ]
    assert signs(build_table(runs, "toyland"))["knn"] == ("star",)


def test_a_lead_within_chance_has_no_star_and_is_not_called_equal(write_run):
    runs = [
        write_run("knn", random_outcomes(300, 0), trainable=False),
        write_run("ease", random_outcomes(300, 1), trainable=False),
    ]
    text = to_markdown(build_table(runs, "toyland"))
    assert "No star: adjusted p = " in text
    assert "80 % power" in text and "equal" not in text


def test_ranks_are_intervals_over_what_is_significant(write_run):
    runs = [
        write_run("first", random_outcomes(1000, 0, skill=3), trainable=False),
        write_run("twin-a", random_outcomes(1000, 1, skill=1), trainable=False),
        write_run("twin-b", random_outcomes(1000, 2, skill=1), trainable=False),
        write_run("net", random_outcomes(1000, 3, skill=-1), trainable=True),
    ]
    table = build_table(runs, "toyland")
    ranks = {row.label: row.rank for row in table.rows}
    # One seed of net leaves its pairs open, so that it may hold any place.
    assert ranks == {
        "first": (1, 2), "twin-a": (2, 4), "twin-b": (2, 4), "random (closed form)": (4, 5),
        "net": (1, 5),
    }  # fmt: skip
    lines = {r["label"]: r for r in csv.DictReader(io.StringIO(to_csv(table)))}
    assert (lines["first"]["rank_best"], lines["first"]["rank_worst"]) == ("1", "2")


def test_a_method_on_other_users_is_no_rival(write_run):
    runs = [
        write_run("knn", random_outcomes(2000, 0, skill=2), trainable=False),
        write_run("llm", random_outcomes(50, 1, skill=3), users=np.arange(50), n_total=2000),
    ]
    table = build_table(runs, "toyland")
    assert signs(table) == {"knn": ("star",), "random (closed form)": (), "llm": ()}


def test_reference_marks_what_is_above_it(write_run):
    runs = trained(write_run, "good", 2.0) + trained(write_run, "poor", 0.5, first=10)
    runs.append(write_run("knn", random_outcomes(2000, 20), trainable=False))
    table = build_table(runs, "toyland", reference="knn")
    assert signs(table)["good"] == ("star", "above")
    assert signs(table)["poor"] == signs(table)["knn"] == ()
    assert "above the reference knn" in to_markdown(table)
    assert "--reference knn" in table.command
    with pytest.raises(ConfigError, match="reference"):
        build_table(runs, "toyland", reference="nobody")


def test_primary_metric_is_ndcg_1_where_a_method_answers_with_a_list(write_run):
    knn = write_run("knn", random_outcomes(100, 0), trainable=False)
    assert build_table([knn], "toyland").primary == "ndcg@5"
    ranked = outcomes_with_ranks([1] * 100)
    slots = np.ones(100, np.int16)
    lists = write_run("llm", replace(ranked, rank_keep=slots, rank_close=slots), family="llm")
    assert build_table([knn, lists], "toyland").primary == "ndcg@1"
    assert build_table([knn, lists], "toyland", primary="mrr@5").primary == "mrr@5"


def test_scorer_stands_in_the_name(write_run):
    run = write_run("llm", random_outcomes(20, 0), config={"scorer": "likelihood"})
    assert "llm (likelihood)" in signs(build_table([run], "toyland"))


def test_wanted_methods_without_runs_are_em_rules_with_a_footnote(write_run):
    run = write_run("knn", random_outcomes(20, 0))
    table = build_table([run], "toyland", wanted=["weaverec", "knn"])
    text = to_markdown(table)
    line = next(x for x in text.splitlines() if "| weaverec" in x)
    assert line.count("—") == 4
    assert "— no stored run: weaverec." in text
    row = next(r for r in csv.DictReader(io.StringIO(to_csv(table))) if r["method"] == "weaverec")
    assert row["ndcg@5"] == "" and row["n_users"] == ""


def test_wanted_methods_stand_in_their_family_last_and_in_the_order_asked_for(write_run):
    runs = [
        write_run("knn", random_outcomes(20, 0)),
        write_run("net", random_outcomes(20, 1), family="single-domain"),
        write_run("gru", random_outcomes(20, 2), family="single-domain", target="elsewhere"),
        write_run("ours", random_outcomes(20, 3), family="weaverec"),
    ]
    families = {"alone": "cross-domain", "zeta": "reference", "alpha": "reference"}
    wanted = ["zeta", "alpha", "gru", "alone", "unheard-of"]
    table = build_table(runs, "toyland", wanted=wanted, families=families)
    assert [row.label for row in table.rows][2:] == [
        "zeta", "alpha", "net", "gru", "alone", "ours", "unheard-of",
    ]  # fmt: skip
    assert "No stored run" in next(x for x in to_markdown(table).splitlines() if "unheard-of" in x)


def test_methods_of_a_suite_may_be_grouped_by_family(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: T\nmethods:\n  reference: [b, a]\n  weaverec: [c]\nscales: {cpu: {targets: [t]}}\n"
    )
    suite = load_suite(str(path))
    assert suite.methods == ("b", "a", "c")
    assert suite.families == {"b": "reference", "a": "reference", "c": "weaverec"}
    path.write_text("title: T\nmethods: {reference: a}\nscales: {cpu: {targets: [t]}}\n")
    with pytest.raises(ConfigError, match="methods"):
        load_suite(str(path))


def test_ranks_are_a_column_on_request_and_defined_below(write_run):
    runs = [
        write_run("first", random_outcomes(1000, 0, skill=3), trainable=False),
        write_run("twin-a", random_outcomes(1000, 1, skill=1), trainable=False),
        write_run("twin-b", random_outcomes(1000, 2, skill=1), trainable=False),
    ]
    plain, table = (build_table(runs, "toyland", ranks=ranks) for ranks in (False, True))
    ranks = {"first": "1", "twin-a": "2–3", "twin-b": "2–3", "random (closed form)": "4"}
    lines = to_markdown(table).splitlines()
    place = [cell.strip() for cell in lines[2].split("|")].index("Rank")
    for label, rank in ranks.items():
        line = next(x for x in lines if f"| {label} " in x)
        assert line.split("|")[place].strip() == rank
    assert "2--3" in to_latex(table) and ">2–3</td>" in to_html(table)
    assert "- Rank: best and worst place of a row" in to_markdown(table)
    assert "--ranks" in table.command
    for text in (to_markdown(plain), to_latex(plain), to_html(plain)):
        assert "Rank" not in text


def test_costs_are_means_over_runs_and_shown_on_request(write_run):
    runs = trained(write_run, "net", 1.0, n=20, seeds=2)
    for run, seconds in zip(runs, (10.0, 20.0), strict=True):
        run.manifest["seconds"].update(fit=seconds, score=2.0, total_with_adapters=5 * seconds)
        run.manifest["peak_memory"] = {"mb": 30 * seconds}
    row = build_table(runs, "toyland").rows[-1]
    assert (row.cost.own, row.cost.total, row.cost.memory_mb) == (17.0, 75.0, 600.0)
    assert "Peak MB" not in to_markdown(build_table(runs, "toyland"))
    line = to_markdown(build_table(runs, "toyland", costs=True)).splitlines()[5]
    assert [cell.strip() for cell in line.strip("|").split("|")][-3:] == ["17", "75", "600"]


QUOTED = Publication(
    "someone-2020",
    "Someone, 2020",
    (
        ("toyland", "Great", {"ndcg@1": 0.9, "ndcg@3": 0.92, "ndcg@5": 0.93, "mrr@5": 0.92}),
        ("toyland", "Odd", {"ndcg@1": 0.2, "ndcg@3": 0.3, "ndcg@5": 0.35, "mrr@5": 0.36}),
        ("elsewhere", "Other", {"ndcg@1": 0.1}),
    ),
)


def test_quoted_rows_stand_below_a_rule_unmarked_with_their_source(write_run):
    run = write_run("knn", random_outcomes(200, 0), trainable=False)
    table = build_table([run], "toyland", publication=QUOTED)
    block = table.blocks[-1]
    assert block.kind == "reported" and not block.comparable
    assert [(row.label, row.flags) for row in block.rows] == [
        ("Great", ()),
        ("Odd", ("inconsistent",)),
    ]
    assert not any(row.marks or row.signs for row in block.rows)
    assert table.rows[0].marks["ndcg@5"] == "best" and table.rows[0].signs == ("star",)
    text = to_markdown(table)
    assert text.index("---\n") < text.index("| Great")
    assert "Source: Someone, 2020" in text and "Other" not in text
    lines = [r for r in csv.DictReader(io.StringIO(to_csv(table))) if r["block"] == "reported"]
    assert {(r["task_hash"], r["provenance"]) for r in lines} == {("", "Someone, 2020")}


def test_every_publication_of_the_package_names_its_source():
    assert "weaverec-2025" in publications()
    for name in publications():
        found = load_publication(name)
        assert found.rows and "arXiv" in found.source
    with pytest.raises(ConfigError, match="weaverec-2025"):
        load_publication("weaverec-2024")


def suite(**more):
    values = {
        "name": "two",
        "title": "Two targets",
        "methods": ["knn", "net"],
        "scales": {"cpu": {"targets": ["toyland", "seaside"]}},
    }
    return Suite.model_validate(values | more)


def test_targets_of_a_suite_are_one_family(write_run):
    # p = .03 on each target: a star alone, none after Holm over two.
    rng = np.random.default_rng(3)
    runs, single = [], []
    for target in ("toyland", "seaside"):
        a = rng.integers(1, 8, 4000)
        found = None
        for shift in range(1, 400):
            b = a.copy()
            b[:shift] = np.minimum(b[:shift] + 2, 29)
            gain = [metric_per_user(outcomes_with_ranks(x), "ndcg@5") for x in (a, b)]
            noise = rng.permutation(4000)[:1500]
            b[noise] = rng.permutation(b[noise])
            gain[1] = metric_per_user(outcomes_with_ranks(b), "ndcg@5")
            p = stats.ttest_rel(*gain).pvalue
            if 0.027 < p < 0.048 and gain[0].mean() > gain[1].mean():
                found = b
                break
        assert found is not None
        task = target[0] * 64
        pair = [
            write_run("knn", outcomes_with_ranks(a), target=target, task=task, trainable=False),
            write_run("net", outcomes_with_ranks(found), target=target, task=task, trainable=False),
        ]
        single.append(build_table(pair, target))
        runs += pair
    assert all(signs(table)["knn"] == ("star",) for table in single)
    together = build_suite(runs, suite()).tables
    assert all(signs(table)["knn"] == () for table in together)
    assert {table.significance.family for table in together} == {2}
    for alone, table in zip(single, together, strict=True):
        assert table.significance.adjusted_p > alone.significance.adjusted_p


def test_suite_names_absent_targets_and_the_command(write_run):
    run = write_run("knn", random_outcomes(50, 0))
    tables = build_suite([run], suite(), ci=True)
    text = to_markdown(tables)
    assert "No stored runs for the targets seaside" in text
    assert "`bench leaderboard --suite two --ci`" in text
    assert json.loads(to_json(tables))["suite"] == "two"
    with pytest.raises(ConfigError, match="scale"):
        build_suite([run], suite(), scale="paper")
    with pytest.raises(ResultError, match="no stored runs of profile"):
        build_suite([], suite())


def test_suites_of_the_package_name_known_targets_and_quoted_figures():
    from bench.data.catalogue import CATALOGUE

    assert {"table1", "table2", "reference"} <= set(suite_names())
    for name in suite_names():
        found = load_suite(name)
        for scale in found.scales.values():
            assert set(scale.targets) <= set(CATALOGUE)
        if found.reported is not None:
            assert found.reported in publications()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("title: x\nmethods: [a]\nscales: {cpu: {targets: [b]}}\ncolour: red", "colour"),
        ("title: x\nmethods: [a, a]\nscales: {cpu: {targets: [b]}}", "twice"),
        ("title: x\nmethods: [a]\nscales: {huge: {targets: [b]}}", "unknown scales"),
        ("title: x\nmethods: [a]\nreference: z\nscales: {cpu: {targets: [b]}}", "not among"),
        ("- a", "expected a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_suite_file_is_explained(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        load_suite(str(path))


class Reader(HTMLParser):
    """Collects tags, and the text of every cell."""

    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data


def test_html_is_balanced_escaped_and_says_what_the_table_says(write_run):
    hostile = "<script>alert(1)</script>&\"'"
    runs = [
        write_run("knn", random_outcomes(2000, 0, skill=2), trainable=False),
        write_run("net", random_outcomes(2000, 1), overrides={"x": hostile}, trainable=False),
    ]
    table = build_table(runs, "toyland", all_configs=True, publication=QUOTED)
    text = to_html(table)
    reader = Reader()
    reader.feed(text)
    assert reader.open == [] and "script" not in reader.tags
    names = [row[1] for row in reader.rows if len(row) > 2]
    assert names == [
        "Method", "knn", f"net (x={hostile})", "random (closed form)", "Great", "Odd§",
    ]  # fmt: skip
    body = [row for row in reader.rows if len(row) > 2][1:]
    for cells, row in zip(body, table.rows, strict=True):
        assert [c.rstrip("*") for c in cells[4:8]] == [row.figures[m].shown for m in table.metrics]
    assert "<strong>" in text and "<sup>*</sup>" in text
