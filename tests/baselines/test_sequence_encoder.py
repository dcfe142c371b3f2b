"""The sequence encoder is RecBole's SASRec, over item vectors that a subclass makes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.batches import Batch
from bench.baselines.sequence_encoder import (
    ENCODER_PARTS,
    EncoderConfig,
    SequenceEncoder,
    cosine_softmax,
    encode_groups,
    predictions,
)

N_ITEMS, SIZE = 40, 16
CPU = torch.device("cpu")


class Table(SequenceEncoder):
    """Items have one vector each, as in SASRec."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.item_embedding = nn.Embedding(N_ITEMS + 1, config.hidden_size)

    def item_vectors(self) -> Tensor:
        return self.item_embedding.weight[1:]

    def input_vectors(self, items: Tensor) -> Tensor:
        return self.item_embedding(items)


def settings(**more: Any) -> EncoderConfig:
    return EncoderConfig(**{"hidden_size": SIZE, "inner_size": 24, "max_history": 12} | more)


@pytest.fixture
def model() -> Table:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Table(settings()).eval()


def batch() -> Batch:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 10, size=50)
    items = rng.integers(1, N_ITEMS + 1, size=(50, 9))
    items[np.arange(9) >= lengths[:, None]] = 0
    return Batch(items, lengths, rng.integers(1, N_ITEMS + 1, size=50), np.arange(50))


def encoded(model: Table, items: Tensor, lengths: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.encode(model.input_vectors(items), lengths)


def test_weights_and_states_are_those_of_recboles_sasrec(model: Table) -> None:
    if find_spec("recbole") is None:
        pytest.skip("RecBole is absent: run `bench assets pull recbole`")
    from bench.baselines.recbole.settings import build_model, model_settings

    own = {"hidden_size": SIZE, "inner_size": 24, "n_layers": 2, "n_heads": 2}
    theirs: Any = build_model(
        "SASRec", model_settings("SASRec", own, max_history=12), n_users=1, n_items=N_ITEMS
    ).eval()
    assert set(theirs.state_dict()) == set(model.state_dict())
    model.load_state_dict(theirs.state_dict())
    one = batch()
    items, lengths = torch.from_numpy(one.items), torch.from_numpy(one.lengths)
    with torch.inference_mode():
        expected = theirs(items, lengths)
    torch.testing.assert_close(encoded(model, items, lengths), expected, rtol=0, atol=2e-5)


def test_wider_padding_and_what_stands_in_it_change_nothing(model: Table) -> None:
    items, lengths = torch.tensor([[5, 6, 7, 0], [9, 8, 0, 0]]), torch.tensor([3, 2])
    base = encoded(model, items, lengths)
    wide = functional.pad(items, (0, 8), value=33)
    wide[1, 2:] = 31
    torch.testing.assert_close(encoded(model, wide, lengths), base, rtol=0, atol=1e-5)


def test_states_do_not_see_later_items(model: Table) -> None:
    with torch.inference_mode():
        one = model.states(model.input_vectors(torch.tensor([[5, 6, 7, 8]])))
        other = model.states(model.input_vectors(torch.tensor([[5, 6, 30, 31]])))
    torch.testing.assert_close(one[:, :2], other[:, :2], rtol=0, atol=1e-6)
    assert (one[:, 2:] - other[:, 2:]).abs().max() > 1e-4


def test_reading_a_batch_in_groups_gives_its_states(model: Table) -> None:
    one = batch()
    items, lengths = torch.from_numpy(one.items), torch.from_numpy(one.lengths)
    with torch.inference_mode():
        hidden, order = encode_groups(model, model.input_vectors(items), one.lengths)
    assert sorted(order.tolist()) == list(range(50))
    torch.testing.assert_close(hidden, encoded(model, items, lengths)[order], rtol=0, atol=1e-5)


def test_prefixes_and_all_positions_predict_the_same_pairs(model: Table) -> None:
    row = np.array([[5, 6, 7, 8]])
    every = Batch(row, np.array([4]), np.array([[6, 7, 8, 9]]), np.array([0]))
    prefixes = Batch(
        np.tril(np.repeat(row, 4, axis=0)),
        np.arange(1, 5),
        np.array([6, 7, 8, 9]),
        np.zeros(4, int),
    )
    with torch.inference_mode():
        (states, targets), (hidden, goals) = (
            predictions(model, every, CPU),
            predictions(model, prefixes, CPU),
        )
    order = goals.argsort()
    assert targets.tolist() == goals[order].tolist() == [6, 7, 8, 9]
    torch.testing.assert_close(states, hidden[order], rtol=0, atol=1e-5)


def test_cosine_softmax_is_cross_entropy_of_scaled_cosines() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(9, SIZE, generator=generator, requires_grad=True)
    items = torch.randn(N_ITEMS, SIZE, generator=generator, requires_grad=True)
    targets = torch.randint(N_ITEMS, (9,), generator=generator)
    ours = cosine_softmax(hidden, items, targets, 0.07)
    cosines = functional.cosine_similarity(hidden[:, None], items[None], dim=-1)
    expected = functional.cross_entropy(cosines / 0.07, targets)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, (hidden, items)),
        torch.autograd.grad(expected, (hidden, items)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_frozen_weights_stay_while_the_rest_learns(model: Table) -> None:
    model.freeze()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    hidden, targets = predictions(model.train(), batch(), CPU)
    cosine_softmax(hidden, model.item_vectors(), targets - 1, 0.07).backward()
    optimiser.step()
    for name, value in model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (not name.startswith(ENCODER_PARTS)), name


def test_heads_must_divide_the_size() -> None:
    with pytest.raises(ValueError, match="hidden_size=30 is not a multiple of n_heads=4"):
        settings(hidden_size=30, n_heads=4)
