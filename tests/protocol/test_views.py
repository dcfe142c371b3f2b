"""What a method is given: copies in memory that name no file, with the times of training rows."""

import numpy as np
import pytest

from bench.data.cache import load_folder, save_folder
from bench.data.domain import Domain
from bench.enclosure import arrays_of
from bench.protocol import ProtocolOptions, build_task
from bench.testing import make_domain

ROWS = [[user, user + 1, user + 2, user + 3, user + 4] for user in range(12)]


@pytest.fixture
def stored(tmp_path) -> Domain:
    """A domain as runs get it: memory-mapped files of a prepared folder."""
    domain = make_domain("stored", ROWS, n_items=60)
    times = np.arange(domain.n_events) * 10.0 + 0.5
    domain = Domain(domain.name, domain.items, domain.user_ids, domain.sequences, times)
    save_folder(domain, tmp_path / "stored-1")
    return load_folder(tmp_path / "stored-1")


def bases(array):
    while array is not None:
        yield array
        array = getattr(array, "base", None)


def mapped(value, name):
    return [
        path
        for path, array in arrays_of(value, name).items()
        if any(hasattr(base, "filename") or type(base).__name__ == "mmap" for base in bases(array))
    ]


def test_no_array_of_a_view_or_a_request_is_backed_by_a_file(stored):
    assert mapped(stored.sequences, "domain")  # the domain itself is
    task = build_task(stored)
    users = task.subset(None)
    view = task.train_view(with_sources=True, transductive=True, item_columns=("brand",))
    assert mapped(view, "view") == []
    for column in (
        view.target.items.ids,
        view.target.items.titles,
        view.target.items.extra["brand"],
    ):
        assert mapped(column, "column") == []
    assert mapped(task.validation(users)[0], "requests") == []
    for full in (False, True):
        for requests, _ in task.test(users, full=full).chunks(5):
            assert mapped(requests, "requests") == []


@pytest.mark.parametrize("train_on", ["train", "train+valid"])
def test_views_carry_the_times_of_training_rows_and_of_histories(stored, train_on):
    task = build_task(stored, options=ProtocolOptions(train_on=train_on))
    view = task.train_view(with_sources=False).target
    kept = 4 if train_on == "train+valid" else 3
    assert view.timestamps.dtype == np.float64
    expected = np.concatenate([50.0 * user + 10.0 * np.arange(kept) + 0.5 for user in range(12)])
    assert view.timestamps.tolist() == expected.tolist()
    assert view.validation.timestamps.tolist() == [
        50.0 * user + 10.0 * step + 0.5 for user in view.validation.users for step in range(3)
    ]
    requests, _ = next(task.test(task.subset(None)).chunks(100))
    assert requests.timestamps.tolist() == [
        50.0 * user + 10.0 * step + 0.5 for user in range(12) for step in range(4)
    ]
    some = requests.take(np.array([7, 2]))
    assert some.timestamps.tolist() == [350.5, 360.5, 370.5, 380.5, 100.5, 110.5, 120.5, 130.5]
    assert [some.history[row].tolist() for row in (0, 1)] == [[7, 8, 9, 10], [2, 3, 4, 5]]


def test_times_are_no_part_of_a_task(stored):
    shifted = Domain(
        stored.name, stored.items, stored.user_ids, stored.sequences, stored.timestamps + 7.0
    )
    assert build_task(shifted).task_hash == build_task(stored).task_hash
