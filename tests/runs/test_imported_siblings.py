"""Imported domains of one namespace or study group, through `execute`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.imports import import_domain
from bench.data.load import namespace_domains, study_sources
from bench.runs.runner import execute, prepare
from bench.runs.spec import RunSpec

N_USERS, N_ITEMS = 20, 60


def write_events(path: Path, first_item: int, planted: dict[str, list[str]]) -> Path:
    """Users u0.. with six events each on items of their own domain; ``planted`` ones come first."""
    lines = ["user_id,item_id,timestamp"]
    for user in range(N_USERS):
        name = f"u{user}"
        own = [f"i{first_item + (6 * user + step) % N_ITEMS}" for step in range(6)]
        events = [*planted.get(name, ()), *own]
        lines += [f"{name},{item},{at}" for at, item in enumerate(events)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def two_imports(tmp_path, monkeypatch):
    """``books`` and ``films``: the test items of 3 users of ``books`` are training events of ``films``."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    last = {f"u{user}": [f"i{(6 * user + 5) % N_ITEMS}"] for user in range(3)}

    def make(**options: str) -> None:
        books = write_events(tmp_path / "books.csv", 0, {})
        films = write_events(tmp_path / "films.csv", 100, last)
        import_domain("books", books, **options)
        import_domain("films", films, **options)

    return make


def test_leak_between_imported_domains_is_dropped_where_the_guard_says_full(two_imports, store):
    two_imports(namespace="shop")
    assert namespace_domains("shop") == ("books", "films")
    run = execute(RunSpec(method="popularity", target="films", threads=1), store)
    task = run.manifest["task"]
    assert task["guard"] == "full"
    assert task["guard_counts"]["domains"]["films"]["dropped_by"]["books"]["test"] == 3
    assert run.manifest["data"]["books"]["role"] == "leak guard"
    run_spec = RunSpec(method="popularity", target="films", threads=1)
    kept = prepare(run_spec).loaded.task.train_view(with_sources=False).target.sequences.items
    assert len(kept) == N_USERS * 4, "six own events less two held-out ones; none of the planted"
    unguarded = run_spec.model_copy(
        update={"protocol": run_spec.protocol.model_copy(update={"keep_leak": True})}
    )
    leaking = prepare(unguarded).loaded.task.train_view(with_sources=False)
    assert len(leaking.target.sequences.items) == N_USERS * 4 + 3


def test_imports_without_a_namespace_have_no_guard(two_imports, store):
    two_imports()
    run = execute(RunSpec(method="popularity", target="films", threads=1), store)
    assert run.manifest["task"]["guard"] == "none"


def test_import_into_a_catalogue_namespace_joins_its_members(two_imports):
    from bench.data.catalogue import namespace_members

    two_imports(namespace="amazon-2014")
    assert namespace_domains("amazon-2014") == (
        *namespace_members("amazon-2014"),
        "books",
        "films",
    )
    task = prepare(RunSpec(method="popularity", target="films", threads=1)).loaded.task
    assert task.guard == "partial", "the catalogue's members are not on this machine"


def test_default_sources_of_imports_are_the_rest_of_their_group(two_imports, methods_file):
    two_imports(group="mine")
    assert study_sources("books") == ("films",)
    spec = RunSpec(
        method=f"{methods_file}:Learner",
        target="books",
        overrides={"needs_sources": True},
        threads=1,
    )
    assert prepare(spec).spec.sources == ("films",)


def test_default_sources_of_the_catalogue_are_those_of_its_groups():
    from bench.data.catalogue import CATALOGUE, GROUPS

    groups = {name: GROUPS.get(known.group or "", ()) for name, known in CATALOGUE.items()}
    expected = {name: tuple(n for n in group if n != name) for name, group in groups.items()}
    assert {n: study_sources(n) for n in CATALOGUE} == expected
    assert expected["ml-1m"] == ("amazon-toys",)
    assert expected["ml-20m"] == ()
    assert study_sources("somebodys-own") == ()
