"""In-batch contrastive losses against a literal transcription of their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from bench.baselines.contrastive import equal_positives, info_nce

B, D = 12, 5


def vectors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def released(
    queries: torch.Tensor,
    keys: torch.Tensor,
    same: torch.Tensor,
    tau: float,
    fake: torch.Tensor | None = None,
) -> torch.Tensor:
    """UniSRec's and VQ-Rec's loss row by row, as their code has it: a masked logit becomes exp(0)."""
    queries, keys = functional.normalize(queries, dim=1), functional.normalize(keys, dim=1)
    losses = []
    for i in range(len(queries)):
        denominator = torch.zeros(())
        for j in range(len(keys)):
            logit = torch.zeros(()) if same[i, j] else queries[i] @ keys[j] / tau
            denominator = denominator + logit.exp()
        if fake is not None:
            denominator = (
                denominator + (queries[i] @ functional.normalize(fake[i], dim=0) / tau).exp()
            )
        losses.append(-((queries[i] @ keys[i] / tau).exp() / denominator).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("n_further", [0, 1])
def test_as_published_equals_the_released_formula(n_further: int) -> None:
    queries, keys, fake = vectors(0, B, D), vectors(1, B, D), vectors(2, B, D)
    same = equal_positives(torch.arange(B) % 5)
    expected = released(queries, keys, same, 0.07, fake if n_further else None)
    further = fake[:, None] if n_further else None
    found = info_nce(
        queries, keys, temperature=0.07, same=same, handling="as-published", further=further
    )
    torch.testing.assert_close(found, expected)


def test_excluded_rows_are_absent_from_the_denominator() -> None:
    queries, keys = vectors(0, B, D), vectors(1, B, D)
    ids = torch.arange(B) % 5
    expected = []
    for i in range(B):
        kept = [j for j in range(B) if j == i or ids[j] != ids[i]]
        logits = functional.cosine_similarity(queries[i][None], keys[kept]) / 0.5
        expected.append(functional.cross_entropy(logits, torch.tensor(kept.index(i))))
    found = info_nce(queries, keys, temperature=0.5, same=equal_positives(ids))
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_equal_vectors_give_log_b() -> None:
    same = vectors(0, 1, D).expand(B, D)
    assert info_nce(same, same, temperature=0.07).item() == pytest.approx(math.log(B), abs=1e-5)


def test_one_more_equal_negative_gives_log_b_plus_one() -> None:
    same = vectors(0, 1, D).expand(B, D)
    loss = info_nce(same, same, temperature=0.07, further=same[:, None])
    assert loss.item() == pytest.approx(math.log(B + 1), abs=1e-5)


def test_permuting_the_batch_changes_nothing() -> None:
    queries, keys, fake = vectors(0, B, D), vectors(1, B, D), vectors(2, B, 1, D)
    ids = torch.arange(B) % 4
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    first = info_nce(queries, keys, temperature=0.1, same=equal_positives(ids), further=fake)
    second = info_nce(
        queries[order],
        keys[order],
        temperature=0.1,
        same=equal_positives(ids[order]),
        further=fake[order],
    )
    torch.testing.assert_close(first, second)


def test_without_equal_items_it_is_cross_entropy_over_the_batch() -> None:
    queries, keys = vectors(0, B, D), vectors(1, B, D)
    cosines = functional.normalize(queries, dim=-1) @ functional.normalize(keys, dim=-1).T
    expected = functional.cross_entropy(cosines / 0.3, torch.arange(B))
    torch.testing.assert_close(info_nce(queries, keys, temperature=0.3), expected)


def test_a_batch_with_one_positive_for_all_has_no_negative_and_finite_gradients() -> None:
    queries = vectors(0, B, D).requires_grad_()
    keys = vectors(1, B, D)
    loss = info_nce(queries, keys, temperature=0.07, same=equal_positives(torch.zeros(B)))
    (gradient,) = torch.autograd.grad(loss, queries)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(gradient).all()


def test_the_two_ways_differ_where_positives_repeat_and_only_there() -> None:
    queries, keys = vectors(0, B, D), vectors(1, B, D)

    def difference(ids: torch.Tensor) -> float:
        same = equal_positives(ids)
        one = info_nce(queries, keys, temperature=0.5, same=same)
        other = info_nce(queries, keys, temperature=0.5, same=same, handling="as-published")
        return (other - one).item()

    assert difference(torch.arange(B)) == 0.0
    assert difference(torch.arange(B) % 3) > 1e-3


def test_autocast_does_not_round_the_logits() -> None:
    queries, keys = vectors(0, B, D), vectors(1, B, D)
    exact = info_nce(queries, keys, temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(queries, keys, temperature=0.07)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, exact)
