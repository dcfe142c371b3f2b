"""The union of several domains: disjoint ids, guarded sequences, batches over domains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.baselines.domains import (
    UnionVocabulary,
    domain_batches,
    union_domains,
    union_sequences,
)
from bench.errors import MethodError
from bench.protocol.types import TrainView
from bench.testing import planted_task


@pytest.fixture(scope="module")
def view() -> TrainView:
    return planted_task(n_users=60, n_sources=2).train_view(with_sources=True)


def test_domains_own_disjoint_ranges_that_cover_the_union(view: TrainView) -> None:
    domains = union_domains(view)
    vocabulary = UnionVocabulary.of(domains)
    owned = np.concatenate([np.r_[vocabulary.span(d.name)] for d in domains])
    np.testing.assert_array_equal(owned, np.arange(vocabulary.n_items))
    assert vocabulary.n_items == sum(d.n_items for d in (view.target, *view.sources))


def test_union_rows_are_the_training_sequences_of_their_domain(view: TrainView) -> None:
    sequences, domain_of_row = union_sequences(view, include_target=True, include_sources=True)
    domains = union_domains(view)
    vocabulary = UnionVocabulary.of(domains)
    assert domain_of_row.dtype == np.int32
    assert sequences.items.dtype == np.int32
    row = 0
    for k, domain in enumerate(domains):
        for user in range(domain.n_users):
            assert domain_of_row[row] == k
            expected = domain.sequences[user].astype(np.int64) + int(vocabulary.offsets[k])
            np.testing.assert_array_equal(sequences[row], expected)
            row += 1
    assert row == len(sequences) == len(domain_of_row)


def test_the_union_is_the_same_whichever_domain_is_the_target(view: TrainView) -> None:
    first, *rest = view.sources
    other = replace(view, target=first, sources=(*rest, view.target))
    mine = union_sequences(view, include_target=True, include_sources=True)
    theirs = union_sequences(other, include_target=True, include_sources=True)
    assert UnionVocabulary.of(union_domains(view)).names == (
        UnionVocabulary.of(union_domains(other)).names
    )
    np.testing.assert_array_equal(mine[0].items, theirs[0].items)
    np.testing.assert_array_equal(mine[0].offsets, theirs[0].offsets)
    np.testing.assert_array_equal(mine[1], theirs[1])


def test_target_or_sources_alone(view: TrainView) -> None:
    target, of_target = union_sequences(view, include_target=True, include_sources=False)
    np.testing.assert_array_equal(target.items, view.target.sequences.items)
    assert set(of_target) == {0}
    sources, _ = union_sequences(view, include_target=False, include_sources=True)
    assert len(sources.items) == sum(len(s.sequences.items) for s in view.sources)
    assert int(sources.items.max()) < sum(s.n_items for s in view.sources)


def test_a_view_without_sources_and_a_repeated_domain_are_errors(view: TrainView) -> None:
    with pytest.raises(MethodError, match="no source domain"):
        union_domains(replace(view, sources=()), include_target=False)
    with pytest.raises(MethodError, match="occurs twice"):
        union_domains(replace(view, sources=(view.target,)))


def test_foreign_domains_are_errors(view: TrainView) -> None:
    vocabulary = UnionVocabulary.of(union_domains(view))
    with pytest.raises(MethodError, match="is not in the union of planted"):
        vocabulary.span("elsewhere")


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_proportional_batches_hold_every_row_once(
    sizes: list[int], batch_size: int, seed: int
) -> None:
    domain_of_row = np.repeat(np.arange(len(sizes)), sizes)
    batches = domain_batches(
        domain_of_row, batch_size, mixing="proportional", rng=np.random.default_rng(seed)
    )
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(sum(sizes)))
    assert all(len(batch) == batch_size for batch in batches[:-1])


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_balanced_batches_hold_equal_shares_of_the_domains(
    sizes: list[int], batch_size: int, seed: int
) -> None:
    domain_of_row = np.repeat(np.arange(len(sizes)), sizes)
    batches = domain_batches(
        domain_of_row, batch_size, mixing="balanced", rng=np.random.default_rng(seed)
    )
    assert sum(map(len, batches)) == sum(sizes)
    for batch in batches:
        shares = np.bincount(domain_of_row[batch], minlength=len(sizes))
        assert shares.max() - shares.min() <= 1
    for k in range(len(sizes)):
        # No row comes again before every row of its domain has come.
        times = np.bincount(np.concatenate(batches), minlength=sum(sizes))[domain_of_row == k]
        assert times.max() - times.min() <= 1


def test_no_rows_make_no_batches() -> None:
    nothing = np.zeros(0, dtype=np.int32)
    for mixing in ("proportional", "balanced"):
        assert domain_batches(nothing, 4, mixing=mixing, rng=np.random.default_rng(0)) == []
