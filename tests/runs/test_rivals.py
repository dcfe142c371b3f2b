"""Where rivals come from, and that each is read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.io import write_json
from bench.runs import rivals as module
from bench.runs.results import export_result
from bench.runs.rivals import Rivals, published_folder, ranks_nothing, results_in
from bench.runs.runner import execute
from bench.runs.store import RunStore


def test_rivals_come_from_the_store_and_from_committed_results(store, tmp_path, make_spec):
    committed = tmp_path / "results"
    run = execute(make_spec(), store)
    assert Rivals(store, committed).of_run(run) == []
    elsewhere = RunStore(tmp_path / "elsewhere")
    export_result(execute(make_spec("Statistic"), elsewhere), committed)
    (rival,) = Rivals(store, committed).of_run(run)
    assert rival.method == "statistic" and committed in rival.path.parents
    execute(make_spec(seed=1), store)
    assert [r.method for r in Rivals(store, committed).of_run(run)] == ["statistic"]
    other = execute(make_spec(overrides={"epochs": 3}), store)
    both = Rivals(store, committed).of_run(run)
    assert {r.run_id for r in both} == {rival.run_id, other.run_id}
    figures = [r.metrics["metrics"]["ndcg@5"]["mean"] for r in both]
    assert figures == sorted(figures, reverse=True)
    stored = execute(make_spec("Statistic"), store)
    found = Rivals(store, committed).of_run(run)
    assert {r.path for r in found} == {stored.path, other.path}, "the stored copy counts, once"
    few = execute(make_spec(limit_users=10), store)
    assert Rivals(store).of_run(few) == []


def test_random_is_a_rival_only_where_there_is_no_other(store, make_spec):
    run = execute(make_spec(), store)
    chance = execute(make_spec("random"), store)
    assert [r.run_id for r in Rivals(store).of_run(run)] == [chance.run_id]
    other = execute(make_spec("Statistic"), store)
    assert [r.run_id for r in Rivals(store).of_run(run)] == [other.run_id]
    assert ranks_nothing(chance) and not ranks_nothing(other) and not ranks_nothing(run)


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The run folders that rivals were read from, in order."""
    found: list[Path] = []
    present = module.present

    def counted(path: Path):
        found.append(path)
        return present(path)

    monkeypatch.setattr(module, "present", counted)
    return found


def test_a_run_is_read_once_and_other_targets_never(store, tmp_path, make_spec, reads):
    published = tmp_path / "results"
    for target in ("alpha", "beta"):
        for method in ("Statistic", "random"):
            export_result(execute(make_spec(method, target), RunStore(tmp_path / "x")), published)
    run = execute(make_spec(), store)
    rivals = Rivals(store, published)
    for _ in range(3):
        assert rivals.of_run(run)[0].method == "statistic"
        assert len(rivals.of_task("alpha", run.task_hash)) == 3
    assert len(reads) == 3
    assert {path.parent.name for path in reads} == {"alpha"}
    # What the command itself stores meanwhile is seen, and what it replaces is read again.
    execute(make_spec("random"), store)
    execute(make_spec(), store, force=True)
    rivals.of_run(run)
    assert len(reads) == 5


def test_damaged_rivals_are_passed_over_and_named(store, tmp_path, make_spec):
    run = execute(make_spec(), store)
    broken = tmp_path / "results" / "alpha" / "broken-s0-0123456789abcdef"
    broken.mkdir(parents=True)
    write_json(broken / "manifest.json", {"format": 1})
    rivals = Rivals(store, tmp_path / "results")
    assert rivals.of_run(run) == []
    assert rivals.damaged == [broken]


def test_published_results_are_those_of_the_checkout_or_of_a_named_folder(tmp_path, monkeypatch):
    own = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
    monkeypatch.delenv("BENCH_PUBLISHED", raising=False)
    elsewhere = tmp_path / "leaderboards" / "results"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert published_folder() == own, "the working directory plays no part"
    assert results_in(tmp_path) == results_in(elsewhere) == elsewhere
    monkeypatch.setenv("BENCH_PUBLISHED", str(tmp_path))
    assert published_folder() == elsewhere
    monkeypatch.setenv("BENCH_PUBLISHED", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="absent: no such folder"):
        published_folder()
    monkeypatch.delenv("BENCH_PUBLISHED")
    package = tmp_path / "site-packages" / "bench" / "__init__.py"
    monkeypatch.setattr("bench.__file__", str(package))
    assert published_folder() is None, "a wheel carries no results"
