"""The leak guard: brute force on small worlds, a planted overlap, and what a view can reach."""

from __future__ import annotations

import gc
import types
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_domains import make_domain, random_domain

from bench.data.domain import Domain, Sequences
from bench.data.strings import StringColumn
from bench.protocol import ProtocolOptions, Task, build_task
from bench.protocol.guard import match_ids
from bench.protocol.keys import id_hashes
from bench.protocol.types import TrainView

NINE = ProtocolOptions(n_negatives=9)


def worlds() -> st.SearchStrategy[list[dict[str, list[str]]]]:
    """Three domains over few users and items, so that events coincide often."""
    items = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6, unique=True)
    users = st.dictionaries(st.sampled_from(["u", "v", "wé"]), items, min_size=1)
    return st.lists(users, min_size=3, max_size=3).filter(
        lambda domains: (
            any(len(events) >= 3 for events in domains[0].values())
            and any(len(events) >= 3 for events in domains[1].values())
        )
    )


def raw(domain: Domain, user: int, items: np.ndarray) -> list[tuple[str, str]]:
    return [(domain.user_ids[user], domain.items.ids[int(i)]) for i in items]


@settings(deadline=None, max_examples=150)
@given(worlds(), st.booleans())
def test_equals_brute_force(events: list[dict[str, list[str]]], with_valid: bool) -> None:
    vocabulary = [f"z{i}" for i in range(12)]
    domains = [
        make_domain(e, name=f"d{i}", items=vocabulary, namespace="n") for i, e in enumerate(events)
    ]
    train_on = "train+valid" if with_valid else "train"
    options = ProtocolOptions(n_negatives=2, train_on=train_on)
    task = build_task(domains[0], sources=[domains[1]], siblings=domains[1:], options=options)
    view = task.train_view(with_sources=True)
    held_out, tested = [], []
    for own in events:
        long = {u: e for u, e in own.items() if len(e) >= 3}
        tests = {(u, e[-1]) for u, e in long.items()}
        valids = {(u, e[-2]) for u, e in long.items()}
        tested.append(tests)
        held_out.append(tests if with_valid else tests | valids)
    for number, shown in enumerate([view.target, *view.sources]):
        others = set().union(*(h for i, h in enumerate(held_out) if i != number))
        foreign_tests = set().union(*(t for i, t in enumerate(tested) if i != number))
        expected_validation = []
        dropped = 0
        for user, name in enumerate(domains[number].user_ids):
            own = events[number][name]
            evaluated = len(own) >= 3
            train = own[:-2] if evaluated else own
            training = own[:-1] if evaluated and with_valid else train
            kept = [(name, i) for i in training if (name, i) not in others]
            dropped += len(training) - len(kept)
            assert raw(domains[number], user, shown.sequences[user]) == kept
            history = [(name, i) for i in train if (name, i) not in others]
            if evaluated and history and (name, own[-2]) not in foreign_tests:
                expected_validation.append(history)
        found = [
            raw(domains[number], int(user), shown.validation.history[row])
            for row, user in enumerate(shown.validation.users)
        ]
        assert found == expected_validation
        counts = task.guard_counts["domains"][shown.name]
        assert counts["dropped"] == dropped


@pytest.fixture
def planted() -> tuple[Domain, Domain]:
    """In ``books``, ``ann`` trains on what ``music`` tests and on what it validates."""
    fill = [f"f{i:02}" for i in range(20)]
    music = make_domain(
        {"ann": ["f00", "f01", "f02", "v", "t"], "bob": ["f03", "f04", "t", "f05", "f06"]},
        name="music",
        items=fill,
        namespace="shop",
    )
    books = make_domain(
        {"ann": ["t", "f10", "v", "f11", "f12"], "bob": ["t", "f13", "v", "f14", "f15"]},
        name="books",
        items=fill,
        namespace="shop",
    )
    return music, books


def test_planted_overlap_is_dropped_from_training_only(planted: tuple[Domain, Domain]) -> None:
    music, books = planted
    task = build_task(music, sources=[books], siblings=[books], options=NINE)
    ids = books.items.ids.to_list()
    source = task.train_view(with_sources=True).sources[0]
    assert [[ids[i] for i in source.sequences[u]] for u in (0, 1)] == [["f10"], ["t", "f13", "v"]]
    counts = task.guard_counts["domains"]["books"]
    assert counts["dropped"] == 2
    assert counts["dropped_by"] == {"music": {"valid": 1, "test": 1}}
    assert task.guard == "full"
    own = build_task(books, siblings=[music], options=NINE)
    requests, _ = own.validation(own.subset(None))
    assert [ids[i] for i in requests.history[0]] == ["t", "f10", "v"], "histories stay whole"


def test_training_data_do_not_depend_on_target_and_sources(planted: tuple[Domain, Domain]) -> None:
    music, books = planted
    as_source = build_task(music, sources=[books], siblings=[books], options=NINE)
    as_target = build_task(books, siblings=[music], options=NINE)
    one = as_source.train_view(with_sources=True).sources[0].sequences
    two = as_target.train_view(with_sources=False).target.sequences
    assert np.array_equal(one.items, two.items)
    assert np.array_equal(one.offsets, two.offsets)


def test_states_of_the_guard(planted: tuple[Domain, Domain]) -> None:
    music, books = planted
    partial = build_task(music, missing_siblings=["books"], options=NINE)
    off = build_task(
        music,
        sources=[books],
        siblings=[books],
        options=ProtocolOptions(n_negatives=9, keep_leak=True),
    )
    free = build_task(make_domain({"a": [f"i{i}" for i in range(5)]}, items=[f"j{i}" for i in range(9)]),
                      options=NINE)  # fmt: skip
    assert [partial.guard, off.guard, free.guard] == ["partial", "off", "none"]
    assert partial.guard_counts["missing_siblings"] == ["books"]
    assert off.guard_counts["domains"]["books"]["dropped"] == 0
    assert off.source_hashes != build_task(music, sources=[books], options=NINE).source_hashes


def test_domains_of_other_namespaces_do_not_count(planted: tuple[Domain, Domain]) -> None:
    music, _ = planted
    stranger = make_domain(
        {"ann": ["t", "f10", "v", "f11", "f12"]}, name="x", items=[f"f{i:02}" for i in range(20)]
    )
    task = build_task(music, sources=[stranger], siblings=[stranger], options=NINE)
    assert task.guard_counts["domains"]["x"]["dropped"] == 0


def test_ids_that_share_a_hash_are_told_apart() -> None:
    left, right = StringColumn.from_list(["a", "b", "c"]), StringColumn.from_list(["b", "x", "a"])
    same = np.zeros(3, dtype=np.uint64)
    assert match_ids(left, same, right, same).tolist() == [2, 0, -1]
    assert match_ids(left, id_hashes(left), right).tolist() == [2, 0, -1]
    empty = StringColumn.from_list([])
    assert match_ids(left, id_hashes(left), empty).tolist() == [-1, -1, -1]


def reachable(root: object) -> list[object]:
    """Everything that can be reached from an object: fields, containers, closures, array bases."""
    skipped = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float)
    seen: dict[int, object] = {}
    queue = [root]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, skipped):
            continue
        seen[id(item)] = item
        if isinstance(item, np.ndarray):
            queue.append(item.base)
        elif isinstance(item, types.FunctionType):
            queue.extend(cell.cell_contents for cell in item.__closure__ or ())
        else:
            queue.extend(gc.get_referents(item))
            if is_dataclass(item):
                queue.extend(getattr(item, f.name) for f in fields(item))
    return list(seen.values())


@pytest.mark.parametrize("train_on", ["train", "train+valid"])
def test_no_test_event_is_reachable_from_a_view(train_on: str) -> None:
    """The tested item of every user is unique to that user's test event, so any trace shows."""

    def trap(name: str, seed: int) -> Domain:
        base = random_domain(seed, n_users=15, n_items=60, namespace="n")
        ids = base.items.ids.to_list()
        events = {
            u: [ids[i] for i in base.sequences[row]] + [f"test-of-{name}-{u}"]
            for row, u in enumerate(base.user_ids)
        }
        return make_domain(events, name=name, namespace="n", items=ids)

    target, source = trap("one", 1), trap("two", 2)
    options = ProtocolOptions(n_negatives=9, train_on=train_on)  # type: ignore[arg-type]
    task = build_task(target, sources=[source], siblings=[source], options=options)
    view = task.train_view(with_sources=True)
    requests, labels = task.validation(task.subset(None))
    found = reachable(view)
    assert not [o for o in found if isinstance(o, Task | Domain) or type(o).__module__.startswith(
        ("bench.protocol.task", "bench.protocol.part", "bench.protocol.candidate_sets"))]  # fmt: skip
    events = [target.sequences.items, source.sequences.items]
    arrays = [o for o in [*found, *reachable([requests, labels])] if isinstance(o, np.ndarray)]
    assert len(arrays) > 20
    assert not [a for a in arrays for e in events if np.shares_memory(a, e)]
    for shown, domain in ((view.target, target), (view.sources[0], source)):
        tested = [i for i, name in enumerate(domain.items.ids) if name.startswith("test-of")]
        for sequences in (shown.sequences, shown.validation.history):
            assert not np.isin(sequences.items, tested).any()
        for row, user in enumerate(shown.validation.users):
            own = int(domain.sequences[int(user)][-1])
            assert own not in shown.validation.candidates[row]
    assert view.test_requests is None
    transductive = task.train_view(with_sources=False, transductive=True)
    assert transductive.sources == ()
    assert transductive.test_requests is not None
    assert len(transductive.test_requests) == task.n_users


def test_the_walk_would_find_a_planted_leak() -> None:
    domain = random_domain(3)
    task = build_task(domain, options=NINE)
    view = task.train_view(with_sources=False)
    leaky = TrainView(view.target, meta={"hidden": [lambda: task]})
    assert any(o is task for o in reachable(leaky))
    slice_of = Sequences(domain.sequences.offsets[:2], domain.sequences.items[:5])
    assert any(
        o is domain.sequences.items for o in reachable(TrainView(view.target, meta={"s": slice_of}))
    )
