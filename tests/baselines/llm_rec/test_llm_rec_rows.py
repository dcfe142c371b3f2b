"""LLM-Rec's training rows: prefixes of every domain, in-domain choices, batches."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_catalogue import sequences

from bench.baselines.domains import UnionVocabulary, union_domains, union_sequences
from bench.baselines.llm_rec.rows import BatchStream, choices, split_rows
from bench.baselines.negatives import InDomainNegatives
from bench.errors import MethodError
from bench.testing import planted_task

UNION = sequences([0, 1, 2], [3, 1], [10, 12, 11], [13, 10, 19, 14])
DOMAIN_OF_ROW = np.array([0, 0, 1, 1])
OFFSETS = np.array([0, 6, 20])


class TestRows:
    def test_negatives_are_uniform_over_the_rest_of_the_domain(self) -> None:
        sampler = InDomainNegatives(UNION, DOMAIN_OF_ROW, OFFSETS)
        drawn = sampler.draw(np.arange(4), 6000, np.random.default_rng(0))
        assert drawn.shape == (4, 6000)
        for row, allowed in enumerate(
            [{3, 4, 5}, {0, 2, 4, 5}, set(range(13, 20)), set(range(10, 20)) - {13, 10, 19, 14}]
        ):
            # The second domain begins at item 6; nobody trained on 6 to 9.
            allowed = allowed | (set(range(6, 10)) if row >= 2 else set())
            found, counts = np.unique(drawn[row], return_counts=True)
            assert set(found.tolist()) == allowed
            assert counts / 6000 == pytest.approx([1 / len(allowed)] * len(allowed), abs=0.025)

    def test_a_user_with_every_item_is_refused(self) -> None:
        with pytest.raises(MethodError, match="holds all 2 items of its domain"):
            InDomainNegatives(sequences([0, 1]), np.array([0]), np.array([0, 2]))

    def test_the_target_stands_at_a_uniform_place_and_the_label_points_at_it(self) -> None:
        rows, _ = split_rows(UNION, max_history=10, holdout_share=0.0, seed=0)
        sampler = InDomainNegatives(UNION, DOMAIN_OF_ROW, OFFSETS)
        chosen = np.tile(np.arange(len(rows)), 1000)
        found = choices(UNION, rows, chosen, sampler, 10, np.random.default_rng(0))
        assert found.items.shape == (len(chosen), 11)
        target = UNION.items[rows.end[chosen]]
        assert (found.items[np.arange(len(chosen)), found.label] == target).all()
        assert ((found.items == target[:, None]).sum(axis=1) == 1).all()
        shares = np.bincount(found.label, minlength=11) / len(chosen)
        assert shares == pytest.approx([1 / 11] * 11, abs=0.015)

    def test_rows_are_every_prefix_of_every_domain(self) -> None:
        rows, held = split_rows(UNION, max_history=2, holdout_share=0.0, seed=0)
        assert len(held) == 0
        found = {
            (tuple(UNION.items[a:b].tolist()), int(UNION.items[b]))
            for a, b in zip(rows.start, rows.end, strict=True)
        }
        expected = {
            (tuple(row[max(0, t - 2) : t]), row[t])
            for row in ([0, 1, 2], [3, 1], [10, 12, 11], [13, 10, 19, 14])
            for t in range(1, len(row))
        }
        assert found == expected

    def test_held_out_rows_are_last_items_of_some_users(self) -> None:
        many = sequences(*([[0, 1, 2, 3]] * 500))
        rows, held = split_rows(many, max_history=10, holdout_share=0.1, seed=3)
        assert len(rows) + len(held) == 1500
        assert len(held) == pytest.approx(50, abs=20)
        assert (many.items[held.end] == 3).all()
        assert not set(rows.end.tolist()) & set(held.end.tolist())
        again, _ = split_rows(many, max_history=10, holdout_share=0.1, seed=3)
        assert (again.end == rows.end).all()

    def test_batches_are_found_by_number(self) -> None:
        make = {"batch_size": 4, "mixing": "proportional", "seed": 1}
        stream = BatchStream(np.zeros(10, int), **make)  # type: ignore[arg-type]
        assert stream.per_pass == 3
        whole = stream.take(0, 6)
        assert sorted(np.concatenate(whole[:3]).tolist()) == list(range(10))
        assert [b.tolist() for b in whole[:3]] != [b.tolist() for b in whole[3:]]
        later = BatchStream(np.zeros(10, int), **make).take(2, 3)  # type: ignore[arg-type]
        assert [b.tolist() for b in later] == [b.tolist() for b in whole[2:5]]


def test_training_rows_hold_every_domain_and_nothing_held_out() -> None:
    task = planted_task(n_users=40, n_sources=2)
    view = task.train_view(with_sources=True)
    union, domain_of_row = union_sequences(view, include_target=True, include_sources=True)
    domains = union_domains(view)
    rows, _ = split_rows(union, max_history=10, holdout_share=0.0, seed=0)
    assert set(domain_of_row[rows.sequence].tolist()) == {0, 1, 2}
    vocabulary = UnionVocabulary.of(domains)
    names = [domain.name for domain in domains]
    pairs = {(int(row), int(item)) for row, item in zip(union.rows, union.items, strict=True)}
    first = int(np.flatnonzero(domain_of_row == names.index(view.target.name))[0])
    # Every pair of the union is a training pair of its own domain, and no held-out one of the target.
    for number, domain in enumerate(domains):
        own = domain.sequences
        start = int(np.flatnonzero(domain_of_row == number)[0])
        items = own.items + vocabulary.span(domain.name).start
        known = {(start + int(r), int(i)) for r, i in zip(own.rows, items, strict=True)}
        assert {pair for pair in pairs if domain_of_row[pair[0]] == number} == known
    chunks = [task.validation(task.subset(None)), *task.test(task.subset(None)).chunks(10**6)]
    for requests, labels in chunks:
        positives = requests.candidates[np.arange(len(labels)), labels.position]
        items = positives + vocabulary.span(view.target.name).start
        held_out = {(first + int(u), int(i)) for u, i in zip(requests.users, items, strict=True)}
        assert not pairs & held_out
