"""What the verbs show: plans, unfinished runs, chosen columns, several stores, narrow terminals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.cli import app, output
from bench.cli.complete import domain_names, method_names
from bench.cli.output import print_table
from bench.io import lock
from tests.cli.hostile import ESCAPE

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


class TestOverrides:
    def test_a_key_changes_the_method_that_it_names(self, cli, tiny):
        words = ("--set", "item-knn:shrinkage=3", "--set", "markov:prior=2", "--json")
        rows = lines_of(cli("run", "--method", "item-knn,markov", "--target", tiny, *words).stdout)
        configs = {
            row["method"]: json.loads(cli("runs", "show", row["run_id"], "--json").stdout)
            for row in rows
        }
        assert configs["item-knn"]["manifest"]["config"]["shrinkage"] == 3
        assert configs["markov"]["manifest"]["config"]["prior"] == 2

    def test_the_own_key_wins_and_a_file_may_hold_it(self, cli, tiny):
        Path("c.yaml").write_text("shrinkage: 5\nitem-knn:shrinkage: 7\n")
        for words, wanted in (
            (("--config", "c.yaml"), 7),
            (("--config", "c.yaml", "--set", "item-knn:shrinkage=9"), 9),
        ):
            run = json.loads(
                cli("run", "--method", "item-knn", "--target", tiny, *words, "--json").stdout
            )
            shown = json.loads(cli("runs", "show", run["run_id"], "--json").stdout)
            assert shown["manifest"]["config"]["shrinkage"] == wanted

    @pytest.mark.parametrize("key", ["item-kn:shrinkage=3", "markov:=3", ":shrinkage=3"])
    def test_a_method_that_does_not_run_is_refused(self, cli, tiny, key):
        told = cli("run", "--method", "item-knn,markov", "--target", tiny, "--set", key, code=2)
        assert "unknown method in --set" in told.stderr

    def test_a_colon_of_a_models_name_is_no_key(self, cli, tiny):
        words = ("--set", "recbole:NARM:embedding_size=32")
        told = cli("run", "--method", "item-knn", "--target", tiny, *words, code=2).stderr
        assert "'recbole:NARM'" in told


class TestPlan:
    def test_rows_name_their_seed(self, cli, tiny, tmp_path):
        plugin = tmp_path / "seeded.py"
        cli("new", "method", "seeded", "--out", plugin)
        plugin.write_text(plugin.read_text().replace("trainable=False", "trainable=True"))
        plan = cli("run", "--method", plugin, "--target", tiny, "--seed", "0,7", "--plan").stdout
        head, _, *rows = plan.splitlines()
        assert head.split()[:3] == ["run", "seed", "job"]
        assert [row.split()[1] for row in rows if row.startswith(tuple("0123456789abcdef"))] == [
            *("0", "0", "7", "7")
        ]

    def test_times_come_from_stored_runs_of_the_method(self, cli, tiny, tmp_path):
        words = ("run", "--method", "item-knn", "--target", tiny)
        assert "about" not in cli(*words, "--plan", "--rivals", "none").stdout
        run = json.loads(cli(*words, "--json").stdout)
        rows = lines_of(cli(*words, "--plan", "--force", "--json", "--rivals", "none").stdout)
        seconds = {row["job"]: row["seconds"] for row in rows}
        # The very run that is repeated: its own times.
        assert seconds["fit"] == pytest.approx(run["seconds"]["fit"])
        assert seconds["score"] == pytest.approx(run["seconds"]["score"])
        (half,) = {
            row["seconds"]
            for row in lines_of(
                cli(*words, "--plan", "--json", "--limit-users", 30, "--rivals", "none").stdout
            )
            if row["job"] == "score"
        }
        assert half == pytest.approx(run["seconds"]["score"] / 2)
        shown = cli(*words, "--plan", "--force", "--rivals", "none").stdout
        assert "those of stored runs" in shown


class TestUnfinished:
    @pytest.fixture
    def folder(self, cli, tiny, tmp_path) -> Path:
        cli("run", "--method", "random", "--target", tiny, "--quiet")
        folder = tmp_path / "runs/.work/0123456789abcdef"
        (folder / "scratch").mkdir(parents=True)
        (folder / "log.txt").write_text(
            f"2026-01-02T03:04:05Z INFO run 0123456789abcdef: sasrec on tiny, seed 1{ESCAPE}\nmore\n"
        )
        return folder

    def test_an_interrupted_run_is_listed(self, cli, folder):
        told = cli("runs", "list").stderr
        assert "unfinished: 0123456789abcdef sasrec on tiny, seed 1" in told
        assert "begun 2026-01-02T03:04:05Z" in told
        assert "bench runs rm --unfinished" in told
        assert not UNSAFE.search(told)
        (folder / "log.txt").unlink()
        assert "without a log" in cli("runs", "list").stderr

    def test_the_log_of_a_failed_run_is_not_unfinished(self, cli, folder):
        (folder / "scratch").rmdir()
        assert cli("runs", "list").stderr == ""

    def test_a_running_one_is_told_apart(self, cli, folder):
        with lock(folder):
            told = cli("runs", "list").stderr
        assert "running: 0123456789abcdef sasrec on tiny" in told
        assert "unfinished" not in told


class TestLeaderboard:
    def test_chosen_metrics_are_the_columns(self, cli, tiny):
        cli("run", "--method", "item-knn", "--target", tiny, "--quiet")
        words = ("leaderboard", "--target", tiny, "--metrics", "NDCG@10,hr@10,ndcg@10")
        table = cli(*words).stdout
        head = next(line for line in table.splitlines() if line.startswith("| Family"))
        names = [cell.strip() for cell in head.strip("|").split("|")]
        assert names[-3:] == ["NDCG@10", "HR@10", "NDCG@5"]  # the primary one is always there
        (command,) = re.findall(r"`(bench leaderboard .*)`", table)
        assert cli(*command.split()[1:]).stdout == table

    @pytest.mark.parametrize("metrics", ["ndcg@x", "ndcg@" + "9" * 5000, " , ", "auc@5"])
    def test_unknown_metrics_are_refused(self, cli, tiny, metrics):
        cli("run", "--method", "item-knn", "--target", tiny, "--quiet")
        told = cli("leaderboard", "--target", tiny, "--metrics", metrics, code=2).stderr
        assert "metric" in told

    def test_a_site_shows_all_metrics(self, cli, tiny):
        words = ("--format", "html", "--out", "site", "--metrics", "auc")
        assert "--metrics" in cli("leaderboard", "--target", tiny, *words, code=2).stderr

    def test_several_stores_make_one_table(self, cli, tiny, tmp_path):
        for store, method in (("a", "item-knn"), ("b", "markov"), ("b", "item-knn")):
            cli("run", "--method", method, "--target", tiny, "--quiet", "--store", store)
        table = cli("leaderboard", "--target", tiny, "--store", "a", "--store", "b").stdout
        assert table.count("item-knn") == cli(
            "leaderboard", "--target", tiny, "--store", "a"
        ).stdout.count("item-knn")
        assert "| markov" in table

    def test_published_rows_stand_beside_own_ones(self, cli, tiny, tmp_path, monkeypatch):
        cli("run", "--method", "item-knn", "--target", tiny, "--quiet", "--store", "theirs")
        run = json.loads(cli("runs", "list", "--store", "theirs", "--json").stdout)
        names = [row["run_id"] for row in run]
        cli("runs", "export", *names, "--publish", "--out", "results", "--store", "theirs")
        cli("run", "--method", "markov", "--target", tiny, "--quiet", "--rivals", "none")
        monkeypatch.setenv("BENCH_PUBLISHED", "results")
        assert "item-knn" in cli("leaderboard", "--target", tiny, "--published").stdout
        table = cli("leaderboard", "--target", tiny).stdout
        assert "| markov" in table
        assert "--published" in cli("leaderboard", "--target", tiny, "--published").stdout
        shutil.rmtree("results")
        assert (
            "no such folder" in cli("leaderboard", "--target", tiny, "--published", code=2).stderr
        )

    def test_a_blank_target_is_refused(self, cli):
        assert "expected one name" in cli("leaderboard", "--target", " , ", code=2).stderr


class TestTables:
    ROWS = (("a" * 30, "one two three four five six seven eight nine ten", None), ("b", "x\ny", 3))

    def shown(self, monkeypatch, capsys, wide: int | None) -> list[str]:
        monkeypatch.setattr(output, "terminal_width", lambda: wide)
        print_table(("name", "text", "n"), self.ROWS)
        return capsys.readouterr().out.splitlines()

    def test_a_log_or_pipe_gets_the_whole_width(self, monkeypatch, capsys):
        lines = self.shown(monkeypatch, capsys, None)
        assert len(lines) == 4
        assert "nine ten" in lines[2]
        assert "x\\ny" in lines[3]

    @pytest.mark.parametrize("wide", [84, 70, 50, 31])
    def test_a_terminal_gets_what_fits(self, monkeypatch, capsys, wide):
        lines = self.shown(monkeypatch, capsys, wide)
        assert max(map(len, lines)) <= wide
        words = " ".join(lines).split()
        assert [word for word in ("one", "five", "ten") if word not in words] == []
        assert "".join(lines).count("a") >= 30

    @pytest.mark.parametrize(("wide", "whole"), [(None, True), (80, True), (30, False)])
    def test_tables_of_markdown_fit_too(self, monkeypatch, capsys, wide, whole):
        text = (
            "### t\n\n| Method | NDCG@5 |\n|:--|--:|\n| a \\| " + "b" * 20 + " | 0.5 |\n\n- note\n"
        )
        monkeypatch.setattr(output, "terminal_width", lambda: wide)
        output.print_markdown(text)
        shown = capsys.readouterr().out
        assert (shown == text) is whole
        assert max(map(len, shown.splitlines())) <= (wide or 80)
        assert "0.5" in shown and "- note" in shown

    def test_a_very_narrow_one_gets_lists(self, monkeypatch, capsys):
        lines = self.shown(monkeypatch, capsys, 20)
        assert lines[0] == "name  " + "a" * 30
        assert lines[4] == "name  b"
        assert lines[5] == "text  x\\ny"


def test_titles_names_and_files_do_not_drive_the_terminal(cli, tmp_path):
    rows = "".join(f"u{u},i{(u + s) % 9},{s}\n" for u in range(30) for s in range(5))
    data = tmp_path / "wild.csv"
    data.write_text("user_id,item_id,timestamp\n" + rows)
    items = tmp_path / "wild-items.csv"
    items.write_text("item_id,title\n" + "".join(f"i{i},T{i}{ESCAPE}\n" for i in range(9)))
    table = tmp_path / "table.csv"
    table.write_text(f"method,NDCG@1,NDCG@5\n{ESCAPE},0.9,0.1\n")
    texts = [cli("data", "import", "wild", data, "--items", items)]
    texts += [cli("data", *words) for words in (("stats", "wild"), ("show", "wild"), ("list",))]
    texts += [cli("data", "stats", "wild", "--json"), cli("lint", table, code=1)]
    texts += [cli("lint", table, "--json", code=1)]
    texts += [cli("run", "--method", "random", "--target", "wild", "--n-negatives", 3)]
    texts += [cli("runs", "list"), cli("leaderboard", "--target", "wild", "--task", ESCAPE, code=2)]
    for result in texts:
        assert not UNSAFE.search(result.stdout.replace("\n", ""))
        assert not UNSAFE.search(result.stderr.replace("\n", ""))


def test_a_shell_completes_names_behind_commas(tmp_path):
    assert "item-knn" in method_names("item")
    assert method_names("popularity,sas") == ["popularity,sasrec"]
    assert "tiny,ml100k-drama" in domain_names("tiny,ml100k-d")


def test_a_shell_that_completes_may_stop_within_a_word(monkeypatch):
    from typer.testing import CliRunner

    environment = {
        "_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "bench run --method pop",
        "COMP_CWORD": "3",
    }
    result = CliRunner().invoke(app, [], prog_name="bench", env=environment)
    assert result.stdout.split() == ["popularity"]
