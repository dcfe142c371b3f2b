"""`bench run` against rivals: from named places only, whatever the working directory and whatever was killed."""

from __future__ import annotations

import re
import shutil

import pytest

PLACES = re.compile(r"^Rivals of the same task and users: (.*)$", re.M)


def best_rival(result, method: str) -> str:
    found = re.search(rf"^{method} +([a-z-]+ \([0-9a-f]{{8}}\))", result.stdout, re.M)
    assert found is not None, result.stdout
    return found.group(1)


@pytest.fixture
def published(cli, tiny, tmp_path):
    """A checkout whose published results hold `ease` and, too strong to overlook, `markov`."""
    cli("run", "--method", "ease,markov", "--target", tiny, "--quiet", "--rivals", "none")
    results = tmp_path / "checkout" / "leaderboards" / "results"
    ids = [path.name for path in (tmp_path / "runs" / tiny).iterdir()]
    cli("runs", "export", *ids, "--out", results, "--publish")
    shutil.rmtree(tmp_path / "runs")
    return tmp_path / "checkout"


def test_rivals_do_not_depend_on_the_working_directory(cli, tiny, tmp_path, monkeypatch, published):
    words = ("run", "--method", "item-knn", "--target", tiny, "--quiet")
    elsewhere = cli(*words)
    monkeypatch.chdir(published)
    inside = cli(*words)
    assert best_rival(elsewhere, "item-knn") == best_rival(inside, "item-knn")
    assert "popularity" in best_rival(inside, "item-knn")


def test_rivals_come_from_the_place_that_is_named(cli, tiny, tmp_path, monkeypatch, published):
    words = ("run", "--method", "item-knn", "--target", tiny, "--quiet")
    named = cli(*words, "--rivals", published)
    assert "markov" in best_rival(named, "item-knn")
    places = PLACES.search(named.stdout).group(1)
    assert places == (
        f"0 in {tmp_path / 'runs'}, 2 published in {published / 'leaderboards' / 'results'}."
    )
    # A published rival is company: nothing was run beside it.
    assert "popularity" not in cli("runs", "list").stdout
    monkeypatch.setenv("BENCH_PUBLISHED", str(published))
    assert best_rival(cli(*words), "item-knn") == best_rival(named, "item-knn")
    alone = cli(*words, "--rivals", "none")
    assert "popularity" in best_rival(alone, "item-knn")
    assert PLACES.search(alone.stdout).group(1) == f"2 in {tmp_path / 'runs'}."
    refused = cli(*words, "--rivals", tmp_path / "absent", code=2)
    assert "absent: no such folder" in refused.stderr


def test_a_published_manifest_is_read_once_and_only_those_of_the_target(
    cli, tiny, tmp_path, monkeypatch, published
):
    from bench.runs import stored

    results = published / "leaderboards" / "results"
    shutil.copytree(results / tiny, results / "elsewhere")
    read_manifest, reads = stored.read_manifest, []

    def counted(path):
        reads.append(path)
        return read_manifest(path)

    monkeypatch.setattr(stored, "read_manifest", counted)
    cli("run", "--method", "item-knn", "--target", tiny, "--quiet", "--rivals", published)
    found = [path for path in reads if results in path.parents]
    assert sorted(found) == sorted((results / tiny).iterdir())


def test_without_a_checkout_the_output_says_where_published_results_are(
    cli, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.__file__", str(tmp_path / "site-packages" / "bench" / "__init__.py"))
    shown = PLACES.search(cli("run", "--method", "markov", "--target", tiny).stdout).group(1)
    assert "no published ones, which the package does not carry" in shown
    assert "--rivals DIR or BENCH_PUBLISHED" in shown


def test_a_run_killed_beside_its_reference_rows_ends_as_if_it_had_not_been(
    cli, tiny, tmp_path, monkeypatch
):
    from bench.runs import matrix

    words = ("run", "--method", "markov", "--target", tiny, "--quiet", "--rivals", "none")
    execute = matrix.execute_run

    def killed_at_item_knn(spec, *args, **kwargs):
        if spec.method == "item-knn":
            raise KeyboardInterrupt
        return execute(spec, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(matrix, "execute_run", killed_at_item_knn)
        cli(*words, code=130)
    kept = cli("runs", "list").stdout
    assert "popularity" in kept and "item-knn" not in kept
    resumed = cli(*words)
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "other"))
    whole = cli(*words)

    def figures(result):
        return re.sub(r"\b[0-9.]+ s\b|\S*/(runs|other)\b", "", result.stdout)

    assert figures(resumed) == figures(whole)
    assert "item-knn" in resumed.stdout


def test_methods_that_were_asked_for_are_company_for_one_another(cli, tiny):
    result = cli("run", "--method", "markov,popularity", "--target", tiny, "--rivals", "none")
    assert "No stored rival" not in result.stderr
