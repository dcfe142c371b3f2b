"""FMLP-Rec: its filter against torch's transforms, its rows, its loss, and what it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.baselines.batches import plan_batches
from bench.baselines.fmlp.method import (
    FMLPRec,
    FMLPRecConfig,
    bce_loss,
    prefix_rows,
)
from bench.baselines.fmlp.model import FilterLayer, FMLPNetwork
from bench.baselines.negatives import NegativeSampler
from bench.baselines.training import isolated_randomness
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.evaluation import metric_per_user, random_row
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.testing import assert_conforms, evaluate, make_context, planted_task

LENGTHS = [1, 2, 7, 50]
N_ITEMS = 40


def layer(length: int, size: int = 6) -> FilterLayer:
    with isolated_randomness(0):
        made = FilterLayer(length, size)
        made.weight.data.normal_()
    return made


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(**changes: Any) -> FMLPNetwork:
    settings: dict[str, Any] = {
        "length": 10, "size": 8, "n_layers": 2, "inner_size": 16, "dropout": 0.0,
    }  # fmt: skip
    with isolated_randomness(0):
        made = FMLPNetwork(N_ITEMS, **{**settings, **changes})
        for block in made.blocks:  # filters of the published size barely act on their input
            block.filter.weight.data.normal_()
    return made.eval()


def by_transforms(filters: FilterLayer, x: torch.Tensor) -> torch.Tensor:
    """The layer as the paper writes it."""
    weight = torch.view_as_complex(filters.weight.detach())
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * weight
    return torch.fft.irfft(spectrum, n=filters.length, dim=1, norm="ortho")


@pytest.mark.parametrize("length", LENGTHS)
def test_the_filter_is_the_product_in_the_frequency_domain(length: int) -> None:
    filters, x = layer(length), noise(3, length, 6)
    with torch.no_grad():
        out = filters(x)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, by_transforms(filters, x), rtol=0, atol=1e-5)


def test_the_filter_at_its_published_scale_agrees_within_a_millionth() -> None:
    with isolated_randomness(0):
        filters = FilterLayer(50, 64)
    x = noise(32, 50, 64)
    with torch.no_grad():
        torch.testing.assert_close(filters(x), by_transforms(filters, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_filter_is_a_circular_convolution_over_time(length: int) -> None:
    filters, x = layer(length), noise(2, length, 6).double()
    kernel = torch.fft.irfft(
        torch.view_as_complex(filters.weight.detach()[0]).to(torch.complex128), n=length, dim=0
    )
    expected = torch.zeros_like(x)
    for t in range(length):
        for s in range(length):
            expected[:, t] += kernel[(t - s) % length] * x[:, s]
    with torch.no_grad():
        torch.testing.assert_close(filters(x.float()).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_last_position_alone_equals_the_last_column(length: int) -> None:
    filters, x = layer(length), noise(3, length, 6)
    torch.testing.assert_close(filters.last(x), filters(x)[:, -1], rtol=0, atol=1e-5)
    grads = [
        torch.autograd.grad(out.square().sum(), filters.weight)[0]
        for out in (filters.last(x), filters(x)[:, -1])
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_the_transforms() -> None:
    filters, x = layer(50), noise(3, 50, 6).requires_grad_()
    other = filters.weight.detach().clone().requires_grad_()
    target = noise(3, 50, 6, seed=2)
    mine = torch.autograd.grad((filters(x) * target).sum(), (filters.weight, x))
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * torch.view_as_complex(other)
    out = torch.fft.irfft(spectrum, n=50, dim=1, norm="ortho")
    theirs = torch.autograd.grad((out * target).sum(), (other, x))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_filter_of_ones_is_the_identity(length: int) -> None:
    filters, x = layer(length), noise(2, length, 6)
    filters.weight.data[..., 0], filters.weight.data[..., 1] = 1, 0
    with torch.no_grad():
        torch.testing.assert_close(filters(x), x, rtol=0, atol=1e-6)
        torch.testing.assert_close(filters.last(x), x[:, -1], rtol=0, atol=1e-6)


def test_a_filter_of_zeros_leaves_the_normalised_input() -> None:
    block = network().blocks[0]
    block.filter.weight.data.zero_()
    block.outer.weight.data.zero_()
    x = noise(2, 10, 8)
    normalised = functional.layer_norm(x, (8,), eps=1e-12)
    with torch.no_grad():
        filtered = block.filter_norm(block.filter(x) + x)
        torch.testing.assert_close(filtered, normalised, rtol=0, atol=1e-6)
        # The perceptron adds nothing either: a second norm of normalised states.
        torch.testing.assert_close(block(x, last=False), normalised, rtol=0, atol=1e-5)


def test_the_filter_is_linear_and_moves_with_its_input() -> None:
    filters, x, y = layer(50), noise(2, 50, 6), noise(2, 50, 6, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(
            filters(2 * x - 3 * y), 2 * filters(x) - 3 * filters(y), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            filters(x.roll(7, dims=1)), filters(x).roll(7, dims=1), rtol=0, atol=1e-5
        )


def test_half_precision_does_not_reach_the_filter() -> None:
    filters, x = layer(50), noise(2, 50, 6)
    with torch.no_grad():
        expected = filters(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(filters(x), expected, rtol=0, atol=0)


def test_another_number_of_positions_is_an_error() -> None:
    for call in (layer(50), layer(50).last):
        with pytest.raises(MethodError, match="made for 50 positions"):
            call(noise(2, 49, 6))
    with pytest.raises(MethodError, match="histories of 9 positions; expected 10"):
        network()(torch.ones(2, 9, dtype=torch.int64))


def published(model: FMLPNetwork, items: torch.Tensor) -> torch.Tensor:
    """All positions of all blocks with torch's own layers; the last position of the result."""
    x = model.norm(model.items(items) + model.positions(torch.arange(items.shape[1])))
    for block in model.blocks:
        h = block.filter_norm(by_transforms(block.filter, x) + x)
        x = block.norm(block.outer(functional.gelu(block.inner(h))) + h)
    return x[:, -1]


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_network_equals_the_published_one_over_all_positions(n_layers: int) -> None:
    model = network(n_layers=n_layers)
    items = torch.randint(0, N_ITEMS + 1, (5, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(items), published(model, items), rtol=0, atol=1e-5)


def test_padding_is_read_and_every_position_influences_the_last() -> None:
    model = network()
    items = torch.arange(1, 11)[None]
    with torch.no_grad():
        base = model(items)
        for position in range(10):
            other = items.clone()
            other[0, position] = 0
            assert (model(other) - base).abs().max() > 1e-6


def test_initial_values_are_the_published_ones() -> None:
    with isolated_randomness(0):
        model = FMLPNetwork(2000, length=50, size=64, n_layers=2, inner_size=256, dropout=0.5)
    for name, value in model.named_parameters():
        if "norm" in name:
            assert (value == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.05), name
    assert model.items.weight[0].abs().max() > 0
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}


def test_the_padding_vector_stays_as_drawn() -> None:
    model = network()
    model(torch.tensor([[0] * 7 + [1, 2, 3]])).square().sum().backward()
    gradient = model.items.weight.grad
    assert gradient is not None
    assert (gradient[0] == 0).all()
    assert gradient[1].abs().max() > 0


def test_rows_are_the_prefixes_of_the_newest_items_with_an_empty_first_input() -> None:
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, 5, 6, 7, 20]
    sequences = Sequences(
        np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, 9, sum(lengths)).astype(np.int32)
    )
    rows = prefix_rows(sequences, max_length=6)
    expected = []
    for row, length in enumerate(lengths):
        window = sequences[row][-6:].tolist()
        assert int((rows.sequence == row).sum()) == min(length, 6)
        expected += [(row, tuple(window[:j]), window[j]) for j in range(len(window))]
    found = [
        (int(s), tuple(sequences.items[a:b].tolist()), int(sequences.items[b]))
        for s, a, b in zip(rows.sequence, rows.start, rows.end, strict=True)
    ]
    assert found == expected


def test_held_out_items_occur_in_no_training_row() -> None:
    task = planted_task(n_users=50)
    target = task.train_view(with_sources=False).target
    rows = prefix_rows(target.sequences, max_length=50)
    held_out = [task.validation(task.subset(None)), *task.test(task.subset(None)).chunks(10**6)]
    assert len(held_out) == 2
    for requests, labels in held_out:
        for n, user in enumerate(requests.users.tolist()):
            row = int(np.flatnonzero(target.users == user)[0])
            mine = rows.sequence == row
            reached = target.sequences.items[: rows.end[mine].max() + 1]
            reached = reached[target.sequences.offsets[row] :]
            assert requests.candidates[n, labels.position[n]] not in reached


def test_an_epoch_feeds_left_padded_prefixes_and_negatives_outside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = planted_task(n_users=60).train_view(with_sources=False)
    method = FMLPRec(FMLPRecConfig(max_history=8, batch_size=32))
    seen = []

    def record(items: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> Any:
        seen.extend(zip(items.tolist(), positives.tolist(), negatives.tolist(), strict=True))
        return torch.zeros(())

    monkeypatch.setattr(method, "_loss", record)
    for step in method.epoch(view, np.random.default_rng(0), torch.device("cpu")):
        step()
    sequences = view.target.sequences
    expected = []
    for user in range(len(sequences)):
        window = (sequences[user][-8:] + 1).tolist()
        expected += [([0] * (8 - j) + window[:j], window[j]) for j in range(len(window))]
    assert sorted((items, positive) for items, positive, _ in seen) == sorted(expected)
    for items, positive, negative in seen:
        assert 1 <= negative <= view.target.n_items
        assert negative != positive
        assert negative not in items


def test_the_loss_is_binary_cross_entropy_and_stays_finite() -> None:
    positive, negative = noise(100), noise(100, seed=2)
    stacked = torch.cat((positive, negative))
    labels = torch.cat((torch.ones(100), torch.zeros(100)))
    expected = 2 * functional.binary_cross_entropy_with_logits(stacked, labels)
    torch.testing.assert_close(bce_loss(positive, negative), expected, rtol=0, atol=1e-6)
    extreme = bce_loss(torch.tensor([-200.0]), torch.tensor([200.0]))
    assert extreme.item() == pytest.approx(-2 * math.log(1e-24), rel=1e-3)


def test_the_first_loss_is_two_ln_two() -> None:
    view = planted_task(n_users=60).train_view(with_sources=False)
    method = FMLPRec()
    with isolated_randomness(0):
        method.model = method.build(60, view.target.n_items)
        steps = method.epoch(view, np.random.default_rng(0), torch.device("cpu"))
        assert steps[0]().item() == pytest.approx(2 * math.log(2), abs=0.02)


def test_the_softmax_loss_is_a_cross_entropy_over_the_items_without_padding() -> None:
    view = planted_task(n_users=60).train_view(with_sources=False)
    method = FMLPRec(FMLPRecConfig(loss="ce", dropout_prob=0.0))
    rows = prefix_rows(view.target.sequences, max_length=50)
    with isolated_randomness(0):
        method.model = method.build(60, view.target.n_items)
    (step,) = method.epoch(view, np.random.default_rng(0), torch.device("cpu"))[:1]
    found = step()
    (chosen,) = plan_batches(rows, batch_size=256, rng=np.random.default_rng(0), bucketed=False)[:1]
    history = np.zeros((len(chosen), 50), dtype=np.int64)
    for at, row in enumerate(chosen):
        items = view.target.sequences.items[rows.start[row] : rows.end[row]] + 1
        history[at, 50 - len(items) :] = items
    model: Any = method.model
    scores = model(torch.from_numpy(history)) @ model.items.weight.t()
    right = torch.from_numpy(view.target.sequences.items[rows.end[chosen]].astype(np.int64))
    expected = functional.cross_entropy(scores[:, 1:], right)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.item() == pytest.approx(math.log(60), abs=0.1)
    found.backward()
    assert model.items.weight.grad[1:].abs().sum(dim=1).min() > 0


def test_the_authors_loss_is_no_part_of_the_identity() -> None:
    values = FMLPRecConfig().identity()
    assert "loss" not in values
    assert FMLPRecConfig.model_validate(values) == FMLPRecConfig()
    assert FMLPRecConfig(loss="ce").identity() == {**values, "loss": "ce"}


def test_a_tiny_set_is_learnt_by_heart() -> None:
    items = np.arange(24, dtype=np.int32).reshape(4, 6)
    sequences = Sequences(np.arange(0, 25, 6), items.ravel())
    method = FMLPRec(FMLPRecConfig(max_history=6, dropout_prob=0.0))
    rows = prefix_rows(sequences, max_length=6)
    history = np.stack(
        [
            np.concatenate([np.zeros(6 - (b - a), int), sequences.items[a:b] + 1])
            for a, b in zip(rows.start, rows.end, strict=True)
        ]
    )
    inputs = torch.from_numpy(history)
    positives = torch.from_numpy(sequences.items[rows.end].astype(np.int64) + 1)
    sampler, rng = NegativeSampler(sequences, 24), np.random.default_rng(0)
    with isolated_randomness(0):
        method.model = method.build(4, 24)
    optimiser = torch.optim.Adam(method.model.parameters(), lr=1e-2)
    for _ in range(150):
        negatives = torch.from_numpy(sampler.draw(rows.sequence, rng) + 1)
        optimiser.zero_grad()
        loss = method._loss(inputs, positives, negatives)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        model: Any = method.model
        scores = (model(inputs) @ model.items.weight.t())[:, 1:]
    assert loss.item() < 0.5
    # Items of the same user are never negatives, so they are not told apart; all others are.
    for row, positive in enumerate((positives - 1).tolist()):
        if rows.end[row] == rows.start[row]:
            continue  # the empty history has four right answers
        others = [i for i in range(24) if i // 6 != rows.sequence[row]]
        assert scores[row, positive] > scores[row, others].max()


def test_profiles_are_the_stated_ones() -> None:
    paper, cpu = (resolve_config(FMLPRec, profile=name) for name in ("paper", "cpu"))
    assert (paper.epochs, paper.patience, paper.batch_size) == (200, 10, 256)  # type: ignore[attr-defined]
    assert cpu == paper
    assert resolve("fmlp-rec") is FMLPRec


SMALL: dict[str, Any] = {
    "max_history": 12,
    "hidden_size": 16,
    "inner_size": 32,
    "dropout_prob": 0.1,
    "learning_rate": 0.01,
    "batch_size": 64,
}


def test_it_conforms() -> None:
    assert_conforms(FMLPRec, FMLPRecConfig(**SMALL, epochs=2))


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_it_learns_the_planted_pattern(tmp_path: Path, loss: str) -> None:
    task = planted_task()
    method = FMLPRec(FMLPRecConfig(**SMALL, epochs=5, loss=loss))
    context = make_context(tmp_path, task)
    method.fit(task.train_view(with_sources=False), context)
    found = metric_per_user(evaluate(method, task.test(task.subset(None)), context), "ndcg@5")
    assert found.mean() > random_row(30)["ndcg@5"] + 0.5
