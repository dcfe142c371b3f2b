"""A plugin's runs say whether it had passed `bench check`, and tables mark those that had not."""

import csv
import re

import pytest

from bench.runs.runner import execute
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore


@pytest.fixture
def plugin(cli) -> str:
    cli("new", "method", "my-method")
    return "my_method.py:MyMethod"


def run(plugin, tmp_path, **overrides):
    spec = RunSpec(method=plugin, target="tiny", overrides=overrides, threads=1)
    return execute(spec, RunStore(tmp_path / "runs")).manifest["method"]


def table(cli, tmp_path, kind):
    return cli(
        "leaderboard", "--store", tmp_path / "runs", "--target", "tiny", "--format", kind
    ).stdout


def test_a_run_of_an_unchecked_plugin_is_marked_in_every_form(cli, tiny, plugin, tmp_path):
    assert run(plugin, tmp_path)["conformance"] == "not checked"
    shown = table(cli, tmp_path, "markdown")
    assert re.search(r"my-method ‡?‖", shown), shown
    assert "‖ my-method: code from outside the package" in shown
    assert r"\ensuremath{\Vert}" in table(cli, tmp_path, "latex")
    assert '"unchecked"' in table(cli, tmp_path, "json")
    lines = csv.DictReader(table(cli, tmp_path, "csv").splitlines())
    flags = {line["method"]: line["flags"].split() for line in lines}
    assert "unchecked" in flags["my-method"]
    assert "unchecked" not in flags["random"]


def test_a_pass_counts_for_this_source_and_configuration_alone(cli, tiny, plugin, tmp_path):
    cli("check", plugin)
    assert run(plugin, tmp_path)["conformance"] == "passed"
    assert "‖" not in table(cli, tmp_path, "markdown")
    other = run(plugin, tmp_path / "other", popularity=0.5)
    assert other["conformance"] == "not checked"
    with (path := tmp_path / "work" / "my_method.py").open("a") as stream:
        stream.write("\n# edited\n")
    assert path.exists()
    assert run(plugin, tmp_path / "edited")["conformance"] == "not checked"


def test_a_failure_is_remembered_and_a_part_of_the_checks_is_not(cli, tiny, plugin, tmp_path):
    path = tmp_path / "work" / "my_method.py"
    path.write_text(path.read_text().replace("popularity * self", "-popularity * self"))
    path.write_text(path.read_text().replace("return Scores(values", "return Scores(-values"))
    path.write_text(path.read_text().replace("-popularity", "popularity"))
    cli("check", plugin, "--only", "plan")
    assert run(plugin, tmp_path)["conformance"] == "not checked"
    cli("check", plugin, code=1)
    assert run(plugin, tmp_path / "again")["conformance"] == "failed"


def test_the_command_line_says_what_to_do(cli, tiny, plugin):
    shown = cli("run", "--method", plugin, "--target", "tiny").stdout
    assert "my-method had not passed the conformance kit, and tables mark it: bench check" in shown


def test_methods_of_the_package_carry_no_such_mark(cli, tiny, tmp_path):
    assert "conformance" not in run("markov", tmp_path)
    assert "‖" not in table(cli, tmp_path, "markdown")
