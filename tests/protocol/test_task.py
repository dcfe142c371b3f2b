"""Split, subsets, requests, identity of a task."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_domains import make_domain, random_domain

from bench.data.domain import Domain, Sequences
from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.protocol import ProtocolOptions, Task, build_task
from bench.protocol.imported import CandidateTable, ImportedCandidates
from bench.protocol.left_out import LeftOut
from bench.protocol.split import leave_one_out, prefixes


def options(**values: object) -> ProtocolOptions:
    return ProtocolOptions(**{"n_negatives": 9, **values})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def domain() -> Domain:
    return random_domain(0)


@pytest.fixture(scope="module")
def task(domain: Domain) -> Task:
    return build_task(domain, options=options())


@given(st.lists(st.integers(0, 7), max_size=12))
def test_split_takes_the_last_two_events(lengths: list[int]) -> None:
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    sequences = Sequences(offsets, np.arange(offsets[-1], dtype=np.int32))
    split = leave_one_out(sequences)
    rows = [sequences[row].tolist() for row in range(len(lengths))]
    evaluated = [row for row in range(len(lengths)) if lengths[row] >= 3]
    assert split.users.tolist() == evaluated
    assert split.n_short == len(lengths) - len(evaluated)
    assert split.test.tolist() == [rows[row][-1] for row in evaluated]
    assert split.valid.tolist() == [rows[row][-2] for row in evaluated]
    held_out = {*split.test.tolist(), *split.valid.tolist()}
    assert [not kept for kept in split.is_train] == [i in held_out for i in range(offsets[-1])]
    for drop in (1, 2):
        short = prefixes(sequences, split.users, drop)
        assert [short[i].tolist() for i in range(len(short))] == [
            rows[row][:-drop] for row in evaluated
        ]
        assert not np.shares_memory(short.items, sequences.items)


def test_short_users_are_trained_on_and_not_evaluated() -> None:
    vocabulary = [f"i{i}" for i in range(30)]
    events = {
        "a": ["i1", "i2", "i3", "i4"],
        "b": ["i5", "i6"],
        "c": ["i7"],
        "d": ["i1", "i3", "i9"],
    }
    task = build_task(make_domain(events, items=vocabulary), options=options())
    assert (task.n_users, task.n_short_users, task.n_items) == (2, 2, 30)
    assert task.subset(None).tolist() == [0, 3]
    view = task.train_view(with_sources=False).target
    ids = view.items.ids.to_list()
    assert [[ids[i] for i in view.sequences[u]] for u in range(4)] == [
        ["i1", "i2"],
        ["i5", "i6"],
        ["i7"],
        ["i1"],
    ]
    with pytest.raises(ProtocolError, match=r"1 of 1 users are not evaluated, for example index 1"):
        task.validation(np.array([1]))


def test_requests_hold_the_right_history_and_one_positive(domain: Domain, task: Task) -> None:
    users = task.subset(None)[::-1]
    valid, valid_labels = task.validation(users)
    ((test, test_labels),) = list(task.test(users).chunks(1000))
    for row, user in enumerate(users):
        events = domain.sequences[user].tolist()
        assert valid.history[row].tolist() == events[:-2]
        assert test.history[row].tolist() == events[:-1]
        for requests, labels, positive in (
            (valid, valid_labels, events[-2]),
            (test, test_labels, events[-1]),
        ):
            candidates = requests.candidates[row].tolist()
            assert candidates[labels.position[row]] == positive
            assert len(set(candidates)) == 10
            assert set(candidates) & set(events) == {positive}
    assert valid.users.tolist() == users.tolist() == test.users.tolist()
    assert test.candidates.dtype == test.users.dtype == test_labels.position.dtype == np.int32
    assert not np.array_equal(valid.candidates, test.candidates)


def test_chunks_concatenate_to_the_whole(task: Task) -> None:
    requests = task.test(task.subset(None))
    ((whole, labels),) = list(requests.chunks(len(requests)))
    parts = list(requests.chunks(7))
    assert [len(part) for part, _ in parts] == [7, 7, 7, 7, 7, 5]
    assert np.array_equal(np.concatenate([p.candidates for p, _ in parts]), whole.candidates)
    assert np.array_equal(np.concatenate([p.history.items for p, _ in parts]), whole.history.items)
    assert np.array_equal(np.concatenate([part.position for _, part in parts]), labels.position)
    with pytest.raises(ProtocolError, match="chunks of 0"):
        next(requests.chunks(0))


def test_full_ranking_covers_the_catalogue_without_memory(domain: Domain, task: Task) -> None:
    users = task.subset(5)
    full = task.test(users, full=True)
    assert full.n_candidates == domain.n_items
    ((requests, labels),) = list(full.chunks(100))
    assert requests.candidates.strides[0] == 0
    assert labels.excluded is not None
    for row, user in enumerate(users):
        events = domain.sequences[user].tolist()
        assert np.flatnonzero(labels.excluded[row]).tolist() == sorted(events[:-1])
        assert requests.candidates[row, labels.position[row]] == events[-1]
    only = build_task(domain, options=options(negatives="full"))
    assert only.candidates_hash == full.candidates_hash
    valid, valid_labels = only.validation(users)
    assert valid.candidates.shape == (5, domain.n_items)
    assert valid_labels.excluded is not None
    assert not valid_labels.excluded[np.arange(5), valid_labels.position].any()
    assert only.train_view(with_sources=False).target.validation.candidates.strides[0] == 0


def test_subsets_are_nested_and_ignore_other_users(domain: Domain, task: Task) -> None:
    sizes = [1, 3, 10, 25, 40]
    subsets = [set(task.subset(n).tolist()) for n in sizes]
    assert [len(s) for s in subsets] == sizes
    assert all(a < b for a, b in pairwise(subsets))
    assert task.subset(None).tolist() == task.subset(10_000).tolist() == list(range(40))
    assert (np.diff(task.subset(10)) > 0).all()
    assert subsets[2] != set(range(10))
    ids = domain.user_ids.to_list()
    rows = np.arange(0, 40, 2)
    half = build_task(keep_users(domain, rows), options=options())
    kept = {ids[row] for row in rows}
    assert in_order(half) == [user for user in in_order(task) if user in kept]
    with pytest.raises(ProtocolError, match="a subset of 0 users"):
        task.subset(0)


def in_order(task: Task) -> list[str]:
    """Raw user ids in the order in which growing subsets take them."""
    ids = task._part.domain.user_ids
    taken: list[str] = []
    for n in range(1, task.n_users + 1):
        taken.extend(ids[int(u)] for u in task.subset(n) if ids[int(u)] not in taken)
    return taken


def keep_users(domain: Domain, rows: np.ndarray) -> Domain:
    sequences = domain.sequences.take(rows)
    return replace(
        domain,
        user_ids=domain.user_ids.take(rows),
        sequences=sequences,
        timestamps=np.zeros(len(sequences.items)),
    )


def test_candidates_of_a_user_do_not_depend_on_other_users(domain: Domain, task: Task) -> None:
    rows = np.array([3, 8, 30])
    small = build_task(keep_users(domain, rows), options=options())
    (one, _), (other, _) = small.validation(small.subset(None)), task.validation(rows)
    assert np.array_equal(one.candidates, other.candidates)
    assert small.task_hash != task.task_hash
    assert small.candidates_hash != task.candidates_hash


def test_users_hash_is_about_the_set(task: Task) -> None:
    assert task.users_hash(np.array([4, 9])) == task.users_hash(np.array([9, 4]))
    assert task.users_hash(np.array([4, 9])) != task.users_hash(np.array([4, 8]))


def test_hash_is_reproducible_and_ignores_sources_and_seeds_of_extra_sets(domain: Domain) -> None:
    first = build_task(domain, options=options())
    again = build_task(random_domain(0), options=options())
    assert first.task_hash == again.task_hash
    assert first.candidates_hash == again.candidates_hash
    source = random_domain(5, name="source", prefix="s")
    with_source = build_task(domain, sources=[source], options=options())
    assert with_source.task_hash == first.task_hash
    assert list(with_source.source_hashes) == ["source"]
    list(first.test(first.subset(3), candidate_seed=9).chunks(2))
    assert first.task_hash == again.task_hash


def changed_event(domain: Domain, position: int) -> Domain:
    """Replace one event of user 0 by an item that the user does not have."""
    items = domain.sequences.items.copy()
    free = np.setdiff1d(np.arange(domain.n_items), domain.sequences[0])
    items[int(domain.sequences.offsets[1]) + position] = free[0]
    return replace(domain, sequences=Sequences(domain.sequences.offsets, items))


def renamed(column: StringColumn, row: int) -> StringColumn:
    values = column.to_list()
    values[row] += "~"
    return StringColumn.from_list(values)


CHANGES = {
    "training event": lambda d: changed_event(d, -4),
    "order of training events": lambda d: swap(d, -4, -3),
    "validation event": lambda d: changed_event(d, -2),
    "test event": lambda d: changed_event(d, -1),
    "validation and test swapped": lambda d: swap(d, -2, -1),
    "user id": lambda d: replace(d, user_ids=renamed(d.user_ids, 3)),
    "item id": lambda d: replace(d, items=replace(d.items, ids=renamed(d.items.ids, 59))),
    "title": lambda d: replace(d, items=replace(d.items, titles=renamed(d.items.titles, 2))),
    "domain name": lambda d: replace(d, name="other"),
    "namespace": lambda d: replace(d, namespace="n"),
}


def swap(domain: Domain, a: int, b: int) -> Domain:
    items = domain.sequences.items.copy()
    end = int(domain.sequences.offsets[1])
    items[[end + a, end + b]] = items[[end + b, end + a]]
    return replace(domain, sequences=Sequences(domain.sequences.offsets, items))


@pytest.mark.parametrize("change", CHANGES)
def test_hash_changes_with_the_data(domain: Domain, task: Task, change: str) -> None:
    assert build_task(CHANGES[change](domain), options=options()).task_hash != task.task_hash


def test_hash_changes_with_every_option(domain: Domain) -> None:
    guarded = replace(domain, namespace="n")
    variants = [
        build_task(guarded, options=options(**values)).task_hash
        for values in (
            {},
            {"n_negatives": 8},
            {"candidate_seed": 1},
            {"negatives": "popularity"},
            {"negatives": "full"},
            {"train_on": "train+valid"},
            {"keep_leak": True},
        )
    ]
    variants.append(build_task(guarded, options=options(), missing_siblings=["x"]).task_hash)
    assert len(set(variants)) == len(variants)
    full = options(negatives="full", n_negatives=5, candidate_seed=4)
    assert build_task(guarded, options=full).task_hash == variants[4]


def test_hash_ignores_brand_timestamps_and_provenance(domain: Domain, task: Task) -> None:
    brand = StringColumn.from_list(["b"] * domain.n_items)
    other = replace(
        domain,
        items=replace(domain.items, extra={"brand": brand}),
        timestamps=domain.timestamps * 2,
        provenance={"file": "elsewhere"},
        group="g",
    )
    assert build_task(other, options=options()).task_hash == task.task_hash


def test_validation_candidates_keep_seed_zero(domain: Domain, task: Task) -> None:
    other = build_task(domain, options=options(candidate_seed=5))
    users = task.subset(None)
    assert np.array_equal(
        task.validation(users)[0].candidates, other.validation(users)[0].candidates
    )
    assert other.candidates_hash != task.candidates_hash
    extra = task.test(users, candidate_seed=5)
    assert extra.candidates_hash == other.candidates_hash
    ((a, _),), ((b, _),) = list(extra.chunks(100)), list(other.test(users).chunks(100))
    assert np.array_equal(a.candidates, b.candidates)
    assert task.test(users, candidate_seed=0).candidates_hash == task.candidates_hash
    assert task.test(users, full=True).candidates_hash not in (
        task.candidates_hash,
        extra.candidates_hash,
    )


def test_popularity_weights_are_training_counts() -> None:
    """Items that occur only as validation or test events have weight 0 and are never negatives."""
    vocabulary = [f"i{i:02}" for i in range(40)]
    events = {
        f"u{u}": [f"i{(u + 3 * j) % 30:02}" for j in range(5)]
        + [f"i{30 + u % 5}", f"i{35 + u % 5}"]
        for u in range(60)
    }
    task = build_task(
        make_domain(events, items=vocabulary), options=options(negatives="popularity")
    )
    for requests, labels in [
        task.validation(task.subset(None)),
        *task.test(task.subset(None)).chunks(99),
    ]:
        others = requests.candidates.copy()
        others[np.arange(len(others)), labels.position] = 0
        assert others.max() < 30


def test_train_plus_valid_trains_on_the_validation_item(domain: Domain, task: Task) -> None:
    both = build_task(domain, options=options(train_on="train+valid"))
    view, plain = (t.train_view(with_sources=False).target for t in (both, task))
    for user in range(domain.n_users):
        assert view.sequences[user].tolist() == domain.sequences[user][:-1].tolist()
        assert plain.sequences[user].tolist() == domain.sequences[user][:-2].tolist()
    assert np.array_equal(view.validation.history.items, plain.validation.history.items)
    assert np.array_equal(view.validation.candidates, plain.validation.candidates)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_any_small_domain_makes_a_sound_task(seed: int, m: int) -> None:
    domain = random_domain(seed, n_users=6, n_items=20, shortest=1, longest=9)
    try:
        task = build_task(domain, options=options(n_negatives=m))
    except ProtocolError as error:
        assert "none of 6 users" in str(error)
        return
    requests, labels = task.validation(task.subset(None))
    for row, user in enumerate(requests.users):
        own = set(domain.sequences[user].tolist())
        found = requests.candidates[row].tolist()
        assert set(found) & own == {found[labels.position[row]]}
        assert len(set(found)) == m + 1


def with_reader(n_read: int, n_items: int = 40) -> Domain:
    """50 users of 5 events, and one who has read many items."""
    events = {f"u{u}": [f"i{(u + j) % n_items}" for j in range(5)] for u in range(50)}
    events["reader"] = [f"i{j}" for j in range(n_read)]
    return make_domain(events)


def test_users_with_too_few_negatives_are_left_out_and_counted() -> None:
    domain = with_reader(12)
    assert build_task(domain, options=ProtocolOptions(n_negatives=28)).left_out is None
    task = build_task(domain)
    assert task.left_out == LeftOut(n_users=1, needed=29, fewest=28)
    assert task.n_users == 50
    reader = domain.user_ids.to_list().index("reader")
    assert reader not in task.subset(None)
    with pytest.raises(ProtocolError, match="1 of 1 users are not evaluated"):
        task.test(np.array([reader]))
    view = task.train_view(with_sources=False).target
    assert reader not in view.validation.users
    # What is trained on does not depend on the candidates.
    assert view.sequences[reader].tolist() == domain.sequences[reader][:-2].tolist()
    fewer = build_task(domain, options=ProtocolOptions(n_negatives=28))
    assert fewer.train_view(with_sources=False).target.training_hash == view.training_hash


def test_left_out_users_train_on_their_validation_item_where_all_do() -> None:
    domain = with_reader(12)
    task = build_task(domain, options=ProtocolOptions(train_on="train+valid"))
    reader = domain.user_ids.to_list().index("reader")
    sequences = task.train_view(with_sources=False).target.sequences
    assert sequences[reader].tolist() == domain.sequences[reader][:-1].tolist()
    assert sequences.lengths[task.subset(None)].tolist() == [4] * 50


@pytest.mark.parametrize("n_read", [39, 40])
def test_full_ranking_needs_one_item_that_the_user_does_not_know(n_read: int) -> None:
    task = build_task(with_reader(n_read), options=ProtocolOptions(negatives="full"))
    expected = LeftOut(n_users=1, needed=1, fewest=0) if n_read == 40 else None
    assert task.left_out == expected
    assert task.n_users == 50 + (n_read == 39)
    _, labels = next(iter(task.test(task.subset(None)).chunks(100)))
    assert labels.excluded is not None
    assert ((~labels.excluded).sum(axis=1) >= 2).all()


def test_drawn_validation_sets_leave_users_out_beside_imported_test_sets() -> None:
    domain = with_reader(12)
    drawn = build_task(domain)
    ((chunk, _),) = drawn.test(drawn.subset(None)).chunks(100)
    table = CandidateTable(
        StringColumn.from_list([domain.user_ids[int(user)] for user in chunk.users]),
        StringColumn.from_list([domain.items.ids[int(i)] for i in chunk.candidates.ravel()]),
        30,
    )
    chosen = ProtocolOptions(negatives="imported")
    task = build_task(domain, options=chosen, imported=ImportedCandidates({"test": table}))
    assert task.left_out == drawn.left_out
    ((imported, _),) = task.test(task.subset(None)).chunks(100)
    assert np.array_equal(np.sort(imported.candidates), np.sort(chunk.candidates))


def test_nobody_with_enough_items_names_the_sizes() -> None:
    with pytest.raises(ProtocolError) as caught:
        build_task(with_reader(12), options=ProtocolOptions(n_negatives=36))
    message = str(caught.value)
    assert "toy: 36 negatives asked for, but no user has so many eligible items" in message
    assert "the most is 35, the least 28 (user 'reader')" in message
    assert "Largest number that fits every user: 28" in message
    assert "29, 99, 999: none" in message
    assert "full" not in message
    with pytest.raises(ProtocolError, match="of the nested sizes 29, 99, 999: 29"):
        build_task(random_domain(0, n_items=120), options=ProtocolOptions(n_negatives=116))
    everything = make_domain({f"u{u}": ["a", "b", "c"] for u in range(4)})
    for negatives in ("full", "uniform"):
        with pytest.raises(ProtocolError, match="interacted with all 3 items"):
            build_task(everything, options=ProtocolOptions(negatives=negatives))


def test_a_source_with_too_few_items_fails_at_once(domain: Domain) -> None:
    source = random_domain(1, n_items=14, name="small", prefix="s", longest=14, shortest=6)
    with pytest.raises(ProtocolError, match="small: 9 negatives asked for"):
        build_task(domain, sources=[source], options=options())


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"a": ["x", "y", "x", "z"]}, r"1 repeated \(user, item\) events.*'a' with item 'x'"),
        ({"a": ["x", "y"], "b": ["x"]}, r"none of 2 users has the 3 events"),
        ({}, r"none of 0 users"),
    ],
)
def test_domains_that_cannot_be_evaluated(events: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        build_task(make_domain(events), options=options())


def test_wrong_uses_are_refused(domain: Domain, task: Task) -> None:
    users = task.subset(2)
    with pytest.raises(ProtocolError, match="target and sources must be different"):
        build_task(domain, sources=[domain], options=options())
    with pytest.raises(ProtocolError, match="candidate seed 3 with full candidates"):
        task.test(users, candidate_seed=3, full=True)
    with pytest.raises(ProtocolError, match="no candidate file was"):
        build_task(domain, options=options(negatives="imported"))
    with pytest.raises(ProtocolError, match="2 users are not evaluated, for example index -1"):
        task.test(np.array([-1, 99]))
