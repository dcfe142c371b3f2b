"""Stored runs to tables: which runs, which rows, which figures, which marks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from report_runs import OPTIONS, outcomes_with_ranks, random_outcomes

from bench.errors import ConfigError, MissingRunError, ResultError
from bench.evaluation import metric_per_user, random_row, summarise
from bench.report.leaderboard import build_table, to_csv, to_json, to_markdown
from bench.report.select import DEFAULT_OPTIONS
from bench.report.table import FAMILIES, Figure, Row, mark_rows


def by_label(table):
    return {row.label: row for row in table.rows}


def test_rows_are_grouped_by_family_in_paper_order_and_sorted_by_the_primary_metric(write_run):
    families = ["weaverec", "llm", "single-domain", "reference", "something-new", "merging"]
    runs = []
    for i, family in enumerate(families):
        for j in range(2):
            outcomes = random_outcomes(300, 10 * i + j, skill=0.3 + j)
            runs.append(write_run(f"m{i}{j}", outcomes, family=family))
    rows = build_table(runs, "toyland").rows
    expected = ["reference"] * 3 + ["single-domain"] * 2 + ["llm"] * 2 + ["merging"] * 2
    expected += ["weaverec"] * 2 + ["something-new"] * 2
    assert [row.family for row in rows] == expected
    for family in families:
        means = [row.figures["ndcg@5"].mean for row in rows if row.family == family]
        assert means == sorted(means, reverse=True)


def test_figures_are_means_over_users(write_run):
    outcomes = outcomes_with_ranks([1, 2, 3, 30])
    row = by_label(build_table([write_run("knn", outcomes)], "toyland"))["knn"]
    assert row.figures["ndcg@1"].mean == 0.25
    assert row.figures["ndcg@3"].mean == pytest.approx((1 + 0.6309297535714575 + 0.5) / 4)
    assert row.figures["mrr@5"].mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert (row.n_users, row.seeds, row.seconds_fit) == (4, (0,), 2.5)


def test_random_row_is_always_there_and_exact(write_run):
    table = build_table([write_run("knn", random_outcomes(50, 0))], "toyland")
    row = by_label(table)["random (closed form)"]
    expected = random_row(30)
    for metric, figure in row.figures.items():
        assert figure.mean == pytest.approx(expected[metric], abs=1e-12)
    assert row.seeds == () and row.run_ids == ()


def test_a_stored_random_run_is_not_repeated_beside_the_closed_form(write_run):
    constant = random_outcomes(50, 0, skill=0.0, levels=1e-9)
    assert (constant.n_tied == 29).all()
    table = build_table([write_run("random", constant), write_run("knn", constant)], "toyland")
    assert sorted(by_label(table)) == ["knn", "random (closed form)"]
    rows = list(by_label(table).values())
    assert rows[0].figures == rows[1].figures


def test_random_row_of_full_ranking_averages_over_different_numbers_of_candidates(write_run):
    outcomes = outcomes_with_ranks([1, 2, 3])
    outcomes.n_candidates[:] = [10, 20, 400]
    options = {**OPTIONS, "negatives": "full"}
    table = build_table([write_run("knn", outcomes, options=options)], "toyland")
    expected = np.mean([random_row(n)["ndcg@5"] for n in (10, 20, 400)])
    found = by_label(table)["random (closed form)"].figures["ndcg@5"].mean
    assert found == pytest.approx(expected, abs=1e-12)
    assert "whole catalogue without known items (10 to 400 candidates" in table.caption[0]


def test_seeds_are_averaged_per_user_and_counted(write_run):
    per_seed = [random_outcomes(400, s) for s in range(3)]
    runs = [write_run("gru", o, seed=s, family="single-domain") for s, o in enumerate(per_seed)]
    row = by_label(build_table(runs, "toyland", ci=True))["gru"]
    values = np.mean([metric_per_user(o, "ndcg@5") for o in per_seed], axis=0)
    assert row.seeds == (0, 1, 2)
    assert row.figures["ndcg@5"].mean == pytest.approx(values.mean(), abs=1e-12)
    low, high = row.figures["ndcg@5"].ci95
    half = 1.96 * values.std() / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    single = by_label(build_table(runs[:1], "toyland", ci=True))["gru"].figures["ndcg@5"].ci95
    assert high - low < single[1] - single[0]
    assert "|   3 |" in to_markdown(build_table(runs, "toyland"))


def test_interval_of_one_seed_is_the_stored_one(write_run):
    outcomes = random_outcomes(200, 5, levels=2)
    row = by_label(build_table([write_run("knn", outcomes)], "toyland", ci=True))["knn"]
    stored = summarise(outcomes)["ndcg@5"]
    assert row.figures["ndcg@5"].ci95 == pytest.approx(stored.ci95, abs=1e-9)


def test_only_the_default_configuration_stands_for_a_method(write_run):
    outcomes = random_outcomes(50, 0)
    runs = [
        write_run("knn", outcomes, config={"k": 5}),
        write_run("knn", random_outcomes(50, 1), config={"k": 9}, overrides={"k": 9}),
        write_run("ease", outcomes, config={"l2": 3.0}, overrides={"l2": 3.0}),
    ]
    table = build_table(runs, "toyland")
    assert sorted(by_label(table)) == ["knn", "random (closed form)"]
    assert any("2 runs of other configurations" in line for line in table.caption)
    every = build_table(runs, "toyland", all_configs=True)
    assert {"knn", "knn (k=9)", "ease (l2=3.0)"} <= set(by_label(every))
    assert not any("other configurations" in line for line in every.caption)


def test_a_table_that_is_shared_names_no_folder_of_a_setting(write_run):
    values = [{"model": f"/srv/{owner}/llm"} for owner in ("me", "you")]
    runs = [
        write_run("m", random_outcomes(50, seed), config=value, overrides=value)
        for seed, value in enumerate(values)
    ]
    table = build_table(runs, "toyland", all_configs=True)
    assert {f"m (model=llm) [{run.run_id[:8]}]" for run in runs} <= set(by_label(table))
    assert "/srv" not in to_json(table) + to_markdown(table) + to_csv(table)


def test_a_row_says_what_its_runs_note_of_themselves(write_run):
    noted = {"source pre-trained, MiniLM": {}, "no pre-training, MiniLM": {"pretrain": "none"}}
    runs = []
    for seed, (note, overrides) in enumerate(noted.items()):
        run = write_run("u", random_outcomes(50, seed), config=overrides, overrides=overrides)
        run.manifest["method"]["row_note"] = note
        runs.append(run)
    table = build_table([*runs, write_run("knn", random_outcomes(50, 3))], "toyland")
    assert {"u (source pre-trained, MiniLM)", "knn"} <= set(by_label(table))
    every = build_table(runs, "toyland", all_configs=True)
    assert "u (no pre-training, MiniLM, pretrain=none)" in by_label(every)


def test_an_override_equal_to_the_default_joins_the_default_row(write_run):
    runs = [
        write_run("knn", random_outcomes(50, 0), config={"k": 5}),
        write_run("knn", random_outcomes(50, 1), config={"k": 5}, overrides={"k": 5}, seed=1),
    ]
    assert by_label(build_table(runs, "toyland"))["knn"].seeds == (0, 1)


def test_profiles_sources_and_dtypes_are_rows_of_their_own(write_run):
    runs = [
        write_run("m", random_outcomes(50, 0), profile="cpu"),
        write_run("m", random_outcomes(50, 1), profile="paper"),
        write_run("x", random_outcomes(50, 2), sources=("a", "b")),
        write_run("x", random_outcomes(50, 3), sources=("a",)),
        write_run("y", random_outcomes(50, 4)),
        write_run("y", random_outcomes(50, 5), dtype="bfloat16"),
    ]
    table = build_table(runs, "toyland")
    labels = [row.label for row in table.rows]
    assert labels.count("m") == 2
    assert {"x (sources a+b)", "x (sources a)", "y (dtype float32)", "y (dtype bfloat16)"} <= set(
        labels
    )
    assert "Profile" in to_markdown(table).splitlines()[2]
    only = build_table(runs, "toyland", profile="paper")
    assert [row.label for row in only.rows if row.run_ids] == ["m"]
    with pytest.raises(ConfigError, match="profiles on record: cpu, paper"):
        build_table(runs, "toyland", profile="papr")


def test_the_version_that_ran_last_counts(write_run):
    old = write_run("knn", random_outcomes(50, 0), version="2", finished="2026-01-02T00:00:00Z")
    new = write_run("knn", random_outcomes(50, 1), version="10", finished="2026-01-03T00:00:00Z")
    table = build_table([new, old], "toyland")
    assert by_label(table)["knn"].run_ids == (new.run_id,)
    assert any("1 run of older versions" in line for line in table.caption)


def test_a_plugin_with_the_name_of_a_built_in_is_told_apart(write_run):
    runs = [
        write_run("knn", random_outcomes(50, 0)),
        write_run("knn", random_outcomes(50, 1), plugin="1234567890abcdef"),
    ]
    assert {"knn", "knn (plugin 12345678)"} <= set(by_label(build_table(runs, "toyland")))


def test_only_one_task_stands_in_a_table(write_run):
    standard = write_run("knn", random_outcomes(50, 0))
    other = write_run(
        "ease",
        random_outcomes(50, 1),
        task="b" * 64,
        candidates="d" * 64,
        options={**OPTIONS, "negatives": "popularity"},
    )
    table = build_table([other, standard], "toyland")
    assert table.task_hash == "a" * 64
    assert [row.label for row in table.rows if row.run_ids] == ["knn"]
    note = next(line for line in table.caption if "other tasks" in line)
    assert "bbbbbbbbbbbb (negatives=popularity, guard full, 1 run)" in note
    assert "--task" in note
    chosen = build_table([other, standard], "toyland", task="bb")
    assert [row.label for row in chosen.rows if row.run_ids] == ["ease"]
    assert "popularity negatives" in chosen.caption[0]
    with pytest.raises(ConfigError, match=r"means 0 tasks.*aaaaaaaaaaaa"):
        build_table([other, standard], "toyland", task="ff")


def test_of_several_standard_tasks_that_of_the_newest_run_is_shown(write_run):
    """A domain that was imported again: the table is of the data in use, however few runs there are."""
    old = [write_run(f"m{i}", random_outcomes(50, i), task="0" * 64) for i in range(3)]
    new = write_run("m0", random_outcomes(50, 9), task="1" * 64, finished="2026-02-01T00:00:00Z")
    table = build_table([*old, new], "toyland")
    assert table.protocol["task_hash"] == new.task_hash
    assert any("left out" in line and "000000000000" in line for line in table.caption)


def test_a_fully_guarded_standard_task_wins_over_a_partly_guarded_one(write_run):
    partial = [
        write_run(f"m{i}", random_outcomes(50, i), task="0" * 64, guard="partial") for i in range(3)
    ]
    full = write_run("knn", random_outcomes(50, 9), task="f" * 64)
    assert build_table([*partial, full], "toyland").task_hash == "f" * 64
    caption = "\n".join(build_table(partial, "toyland").caption)
    assert "Leak guard partial: some sibling domains were not on disk" in caption


def test_several_special_tasks_need_a_choice(write_run):
    runs = [
        write_run(
            "knn", random_outcomes(50, i), task=h * 64, options={**OPTIONS, "candidate_seed": i}
        )
        for i, h in ((1, "a"), (2, "b"))
    ]
    with pytest.raises(ConfigError, match=r"--task.*candidate_seed=1.*candidate_seed=2"):
        build_table(runs, "toyland")
    assert build_table(runs[:1], "toyland").task_hash == "a" * 64


def test_runs_of_one_task_with_other_candidates_are_refused(write_run):
    runs = [
        write_run("a", random_outcomes(50, 0)),
        write_run("b", random_outcomes(50, 1), candidates="e" * 64),
    ]
    with pytest.raises(ResultError, match="different test candidates"):
        build_table(runs, "toyland")


def test_methods_with_fewer_users_stand_apart_with_their_own_n(write_run):
    subset = np.arange(0, 100, 5)
    whole = [random_outcomes(100, s) for s in range(2)]
    runs = [
        write_run("knn", whole[0]),
        write_run("ease", whole[1]),
        write_run("llm", random_outcomes(20, 7, skill=9), family="llm", users=subset, n_total=100),
    ]
    table = build_table(runs, "toyland")
    assert [[row.label for row in block.rows] for block in table.blocks][1] == ["llm"]
    assert table.blocks[1].rows[0].n_users == 20
    assert table.blocks[1].rows[0].marks == {}
    assert not table.blocks[1].comparable
    assert "best" in {m for row in table.blocks[0].rows for m in row.marks.values()}

    same = build_table(runs, "toyland", users=20)
    assert len(same.blocks) == 1
    rows = by_label(same)
    assert {row.n_users for row in same.rows} == {20}
    expected = metric_per_user(whole[0], "ndcg@5")[subset].mean()
    assert rows["knn"].figures["ndcg@5"].mean == pytest.approx(expected, abs=1e-12)
    assert "n = 20 of 100 test users" in "\n".join(same.caption)
    with pytest.raises(ConfigError, match=r"sizes on record: 20, 100.*--limit-users 30"):
        build_table(runs, "toyland", users=30)
    assert to_csv(build_table(runs, "toyland", users=100)) == to_csv(table)


def test_seeds_with_fewer_users_do_not_join_the_average(write_run):
    runs = [
        write_run("gru", random_outcomes(100, 0), seed=0),
        write_run("gru", random_outcomes(20, 1), seed=1, users=np.arange(20), n_total=100),
    ]
    assert by_label(build_table(runs, "toyland"))["gru"].seeds == (0,)
    assert by_label(build_table(runs, "toyland", users=20))["gru"].seeds == (0, 1)


def row_of(label, value):
    return Row(label, label, "llm", "cpu", (0,), 5, {"hr@1": Figure(value)})


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([0.3, 0.2, 0.1], ["best", "second", None]),
        # Equal as displayed, different underneath.
        ([0.30001, 0.30004, 0.2], ["best", "best", "second"]),
        ([0.3, 0.20001, 0.20004], ["best", "second", "second"]),
        ([0.29996, 0.30004, 0.1], ["best", "best", "second"]),
        ([0.3, 0.3], ["best", "best"]),
        ([0.3], ["best"]),
        ([0.0, 0.00001], ["best", "best"]),
    ],
)
def test_marks_follow_the_displayed_digits(values, marks):
    rows = mark_rows([row_of(f"r{i}", v) for i, v in enumerate(values)], ["hr@1"])
    assert [row.marks.get("hr@1") for row in rows] == marks


def test_ties_that_matter_earn_a_footnote(write_run):
    runs = [
        write_run("coarse", random_outcomes(300, 0, levels=1)),
        write_run("fine", random_outcomes(300, 1)),
    ]
    table = build_table(runs, "toyland")
    assert by_label(table)["coarse"].flags == ("ties",)
    assert by_label(table)["fine"].flags == ()
    assert [line for line in table.caption if line.startswith("‡ coarse: ")]
    assert "| coarse ‡ " in to_markdown(table)


@pytest.mark.parametrize(("named", "marked"), [((940, 960), False), ((930, 950), True)])
def test_rows_whose_answers_seldom_name_a_candidate_are_marked(named, marked, write_run):
    runs = []
    for seed, count in enumerate(named):
        ranked = outcomes_with_ranks([1, 2] * 25)
        slots = np.array([1, 2] * 25, np.int16)
        runs.append(
            write_run(
                "chatty",
                replace(ranked, rank_keep=slots, rank_close=slots),
                seed=seed,
                family="llm",
                diagnostics={"n_prompts": 1000, "answers_with_a_title": count},
            )
        )
    runs.append(write_run("knn", random_outcomes(50, 0), diagnostics={"n_prompts": 50}))
    table = build_table(runs, "toyland")
    rows = by_label(table)
    assert rows["chatty"].share_valid == pytest.approx(sum(named) / 2000)
    assert rows["knn"].share_valid is None
    assert rows["knn"].flags == ()
    assert rows["chatty"].flags == (("invalid",) if marked else ())
    assert ("| chatty ¶ " in to_markdown(table)) == marked
    assert any(line.startswith("¶ chatty: only 94.0 %") for line in table.caption) == marked
    stored = json.loads(to_json(table))["blocks"][0]["rows"]
    assert [row["method"] for row in stored if "share_valid" in row] == ["chatty"]


def test_transductive_rows_are_marked(write_run):
    table = build_table([write_run("ada", random_outcomes(50, 0), transductive=True)], "toyland")
    assert "ada †" in to_markdown(table)
    assert any(line.startswith("† saw the unlabelled test requests") for line in table.caption)


def test_a_transductive_row_says_its_figure_without_the_users_it_adapted_on(write_run):
    outcomes = random_outcomes(50, 0)
    seen = [3, 7, 11, 400]
    run = write_run("ada", outcomes, transductive=True, training={"adapted_on_users": seen})
    (row,) = [r for b in build_table([run], "toyland").blocks for r in b.rows if r.method == "ada"]
    values = metric_per_user(outcomes, "ndcg@5")
    assert row.n_adapted_on == 3
    assert row.unseen == pytest.approx(np.delete(values, seen[:3]).mean())
    line = f"† ada adapted on the requests of 3 of these users; over the others its NDCG@5 is {row.unseen:.4f}."
    assert line in build_table([run], "toyland").caption


@pytest.mark.parametrize("options", [{}, {"ci": True, "all_configs": True}, {"primary": "auc"}])
def test_the_same_runs_give_the_same_bytes_in_any_order(write_run, options):
    runs = [
        write_run(
            f"m{i % 4}", random_outcomes(60, i), seed=i // 4, family=["llm", "merging"][i % 2]
        )
        for i in range(12)
    ]
    reference = build_table(runs, "toyland", **options)
    shuffled = [*runs, *runs[:3]]  # the same run may be in the store and among committed results
    random.Random(1).shuffle(shuffled)
    again = build_table(shuffled, "toyland", **options)
    for write in (to_markdown, to_csv, to_json):
        assert write(again) == write(reference)


def test_a_mistyped_target_is_wrong_use_and_gets_a_suggestion(write_run):
    run = write_run("a", random_outcomes(20, 0))
    with pytest.raises(MissingRunError, match="Did you mean 'toyland'") as error:
        build_table([run], "toylnad")
    assert error.value.exit_code == 2


def test_no_runs_of_the_target_is_an_error_that_helps(write_run):
    with pytest.raises(ResultError, match=r"Targets with runs: toyland.*bench run .*--target moon"):
        build_table([write_run("knn", random_outcomes(5, 0))], "moon")
    with pytest.raises(ResultError, match="Targets with runs: none"):
        build_table([], "moon")


def test_unknown_metrics_are_refused(write_run):
    run = write_run("knn", random_outcomes(5, 0))
    with pytest.raises(ConfigError, match="unknown metric 'ndgc@5'"):
        build_table([run], "toyland", primary="ndgc@5")


def test_constants_equal_the_contracts():
    from bench.methods import Family
    from bench.protocol.types import ProtocolOptions

    assert list(FAMILIES) == [str(family) for family in Family]
    assert ProtocolOptions().model_dump(mode="json") == DEFAULT_OPTIONS == OPTIONS


def test_tables_need_neither_torch_nor_pandas(write_run):
    run = write_run("knn", random_outcomes(20, 0))
    code = (
        "import sys; from pathlib import Path\n"
        "from bench.runs.store import RunStore\n"
        "from bench.report.leaderboard import build_table, to_csv, to_json, to_markdown\n"
        "table = build_table(RunStore(Path(sys.argv[1])).list(), 'toyland', ci=True)\n"
        "to_markdown(table), to_csv(table), to_json(table)\n"
        "heavy = {'torch', 'pandas', 'transformers', 'recbole', 'bench.methods', 'bench.protocol'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path.parents[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_caption_reports_users_that_sources_share_with_the_target(write_run):
    alone = write_run("knn", random_outcomes(20, 0))
    assert "User overlap: no row uses source domains." in build_table([alone], "toyland").caption
    runs = [alone, write_run("mix", random_outcomes(20, 1), sources=("seaside", "desert"))]
    runs[1].manifest["data"] = {"seaside": {"users_shared_with_target": 1234}}
    table = build_table(runs, "toyland")
    assert any("desert not recorded, seaside 1,234." in line for line in table.caption)
    assert table.protocol["user_overlap"] == {"desert": None, "seaside": 1234}


def test_the_caption_says_what_is_wrong_with_the_data_of_its_rows(write_run):
    few, many = ({"items": 100, "items_without_title": n} for n in (10, 40))
    ids = write_run("knn", random_outcomes(20, 0), guard="none")
    texts = write_run("mix", random_outcomes(20, 1), guard="none", sources=("seaside", "desert"))
    texts.manifest["method"]["needs_text"] = True
    texts.manifest["data"] = {"toyland": few, "seaside": many, "desert": few}

    def notes(*runs):
        caption = build_table(runs, "toyland").caption
        return [line for line in caption if line.startswith("Titles") or "one namespace" in line]

    (titles,) = notes(ids, texts)
    assert titles.startswith("Titles: 40 of 100 items of seaside have none")
    texts.manifest["data"]["desert"] = {**few, "users_shared_with_target": 9}
    assert [line.partition(":")[0] for line in notes(ids, texts)] == ["desert", "Titles"]
    for run in (ids, texts):
        run.manifest["task"]["guard"] = "full"
    texts.manifest["method"]["needs_text"] = False
    assert notes(ids, texts) == []


def test_the_caption_says_which_rows_a_model_trained_on(write_run):
    runs = [
        write_run("a", random_outcomes(20, 0)),
        write_run("b", random_outcomes(20, 1), config={"rows": "all-positions"}),
    ]
    caption = "\n".join(build_table(runs, "toyland").caption)
    assert "Profiles and training rows: cpu: a; cpu, rows=all-positions: b." in caption
