"""MCRPL: mixing, masks, prompt loss and stages, against the formulas of the paper and its code."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_method import fitted
from killed_epoch import assert_resumes
from safetensors.torch import load_file
from tiny_group import swapped, unlike_task
from torch.nn import functional

from bench.baselines.domains import union_sequences
from bench.baselines.mcrpl.method import MCRPL, MCRPLConfig, training_rows
from bench.baselines.mcrpl.network import MCRPLNetwork, diff_loss
from bench.baselines.padding import shift_right
from bench.baselines.pretraining import PretrainedStore
from bench.baselines.training import isolated_randomness
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.evaluation import metric_per_user, random_row
from bench.methods import AdapterUse, Progress, TrainView
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task
from bench.testing import assert_conforms, evaluate, make_context, planted_task

N_ITEMS, SIZE, LENGTH = 30, 8, 10
STRATEGIES = ["default", "a", "b"]


def network(**changes: Any) -> MCRPLNetwork:
    settings: dict[str, Any] = {
        "length": LENGTH, "size": SIZE, "n_layers": 1, "inner_size": 16, "dropout": 0.0,
        "n_prompts": 2, "mixing": "default",
    }  # fmt: skip
    with isolated_randomness(0):
        return MCRPLNetwork(N_ITEMS, **{**settings, **changes}).eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(rows: int, width: int, *, padding: int = 0, seed: int = 1) -> torch.Tensor:
    drawn = torch.randint(1, N_ITEMS + 1, (rows, width), generator=torch.manual_seed(seed))
    drawn[:, :padding] = 0
    return drawn


def stacked(model: MCRPLNetwork, states: torch.Tensor) -> torch.Tensor:
    """The shared prompts, the domain's prompts and the item, per position: ``(b, t, 5, d)``."""
    prompts = torch.cat((model.shared_prompts, model.domain_prompts))
    wide = prompts.expand(*states.shape[:2], -1, -1)
    return torch.cat((wide, states[:, :, None]), dim=2)


@pytest.mark.parametrize("rows", [1, 3])
def test_mixing_is_the_weighted_mean_of_prompts_and_item(rows: int) -> None:
    model, states = network(), noise(rows, 4, SIZE)
    vectors = stacked(model, states)
    pairs = torch.cat((vectors, states[:, :, None].expand_as(vectors)), dim=-1)
    mixing: Any = model.mixing
    with torch.no_grad():
        expected = torch.softmax(mixing.out(functional.relu(mixing.hidden(pairs))), dim=2)
        prompts = torch.cat((model.shared_prompts, model.domain_prompts))
        weights = mixing.weights(prompts, states)
        mixed = mixing(prompts, states)
    assert weights.shape == (rows, 4, 5, 1)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(rows, 4, 1))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    assert mixed.shape == (rows, 4, SIZE)
    torch.testing.assert_close(mixed, (expected * vectors).sum(dim=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strategy", ["a", "b"])
def test_strategies_a_and_b_are_self_attention_over_the_five_vectors(strategy: Any) -> None:
    model, states = network(mixing=strategy), noise(3, 4, SIZE)
    vectors = stacked(model, states)
    attention: Any = model.mixing.attention
    prompts = torch.cat((model.shared_prompts, model.domain_prompts))
    with torch.no_grad():
        context = functional.scaled_dot_product_attention(
            attention.query(vectors), attention.key(vectors), attention.value(vectors)
        )
        out = functional.layer_norm(attention.out(context) + vectors, (SIZE,))
        expected = out[:, :, -1] if strategy == "a" else out.sum(dim=2) / 5
        torch.testing.assert_close(model.mixing(prompts, states), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_network_is_the_authors_over_the_full_width(n_layers: int) -> None:
    model, items = network(n_layers=n_layers), ids(4, LENGTH, padding=3)
    with torch.no_grad():
        x = model.inputs(items)
        later = torch.ones(LENGTH, LENGTH).triu(1).bool()
        hidden = (items == 0)[:, None, :] | later
        for layer in model.layers:
            attention: Any = layer.attention
            weights = attention.query(x) @ attention.key(x).mT / math.sqrt(SIZE)
            weights = weights.masked_fill(hidden, -1e9).softmax(dim=-1)
            x = functional.layer_norm(attention.out(weights @ attention.value(x)) + x, (SIZE,))
            x = functional.layer_norm(layer.outer(layer.inner(x).relu()) + x, (SIZE,))
        torch.testing.assert_close(model(items), x[:, -1], rtol=0, atol=1e-5)
        real = model(items, last=False)[:, 3:]
        torch.testing.assert_close(real, x[:, 3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_later_items_and_padding_do_not_reach_earlier_states(strategy: Any) -> None:
    model, items = network(n_layers=2, mixing=strategy), ids(2, LENGTH, padding=4)
    other = items.clone()
    other[:, 7] = other[:, 7] % N_ITEMS + 1
    with torch.no_grad():
        base, changed = model(items, last=False), model(other, last=False)
        torch.testing.assert_close(base[:, 4:7], changed[:, 4:7], rtol=0, atol=0)
        assert (base[:, 7:] - changed[:, 7:]).abs().amax(dim=(1, 2)).min() > 1e-4
        model.items.weight[0] += 5.0  # what padding holds
        torch.testing.assert_close(model(items, last=False)[:, 4:], base[:, 4:], rtol=0, atol=0)


def test_a_batch_can_be_cut_to_its_longest_row() -> None:
    model, items = network(n_layers=2), ids(3, LENGTH, padding=5)
    empty = torch.zeros(1, LENGTH, dtype=torch.int64)
    for full in (items, empty):
        with torch.no_grad():
            torch.testing.assert_close(model(full), model(full[:, 5:]), rtol=0, atol=1e-6)
    with pytest.raises(MethodError, match="11 positions; the model has 10"):
        model(ids(1, LENGTH + 1))


def test_without_prompts_it_is_a_plain_causal_transformer() -> None:
    model, items = network(n_prompts=0), ids(3, LENGTH)
    with torch.no_grad():
        torch.testing.assert_close(
            model.inputs(items), model.items(items) + model.positions.weight, rtol=0, atol=1e-6
        )
    assert diff_loss(model.shared_prompts, model.domain_prompts, "code").item() == 0


def test_the_prompt_loss_of_the_code_equals_its_literal_form_and_its_closed_form() -> None:
    shared, domain = noise(2, 20), noise(2, 20, seed=2)
    s, d = (x / (x.norm(dim=1, keepdim=True) + 1e-6) for x in (shared, domain))
    literal = (s.t() @ d).square().mean()
    cosines = [functional.cosine_similarity(x[0], x[1], dim=0) for x in (shared, domain)]
    found = diff_loss(shared, domain, "code")
    assert found.item() == pytest.approx(literal.item(), rel=1e-4)
    assert found.item() == pytest.approx((2 + 2 * cosines[0] * cosines[1]).item() / 400, rel=1e-4)


def test_the_prompt_loss_of_the_paper_is_0_for_orthogonal_and_1_for_equal_groups() -> None:
    basis = torch.eye(4)
    assert diff_loss(basis[:2], basis[2:], "cross").item() == pytest.approx(0, abs=1e-7)
    same = basis[:1].expand(2, -1)
    assert diff_loss(3 * same, 5 * same, "cross").item() == pytest.approx(1, abs=1e-4)
    mixed = noise(2, 9), noise(2, 9, seed=2)
    expected = functional.cosine_similarity(mixed[0][:, None], mixed[1][None], dim=2).square()
    assert diff_loss(*mixed, "cross").item() == pytest.approx(expected.mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["code", "cross"])
def test_the_prompt_loss_ignores_scale_and_reaches_both_groups(kind: Any) -> None:
    shared, domain = noise(2, 6).requires_grad_(), noise(2, 6, seed=2).requires_grad_()
    value = diff_loss(shared, domain, kind)
    assert diff_loss(7 * shared, domain, kind).item() == pytest.approx(value.item(), rel=1e-4)
    assert diff_loss(shared, 0.1 * domain, kind).item() == pytest.approx(value.item(), rel=1e-4)
    value.backward()
    for group in (shared, domain):
        assert group.grad is not None
        assert group.grad.abs().max() > 1e-4


def test_norms_learn_nothing_and_the_parameters_are_those_of_the_formula() -> None:
    model = network(n_layers=2)
    d, inner, units = SIZE, 16, 16
    expected = (
        (N_ITEMS + 1) * d + LENGTH * d + 4 * d            # items, positions, prompts
        + 2 * d * units + units + units + 1               # mixing network
        + 2 * (4 * d * d + 2 * d * inner)                 # layers
        + N_ITEMS * d + N_ITEMS                           # head
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == expected
    assert not [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert not [name for name, _ in model.named_parameters() if "norm" in name]


def test_matrices_begin_xavier_normal() -> None:
    with isolated_randomness(0):
        model = MCRPLNetwork(
            500, length=50, size=100, n_layers=1, inner_size=256, dropout=0.25, n_prompts=2,
            mixing="default",
        )  # fmt: skip
    for name, value in model.named_parameters():
        if value.dim() == 2 and value.numel() >= 1000:
            expected = math.sqrt(2 / sum(value.shape))
            assert value.std().item() == pytest.approx(expected, rel=0.05), name


def test_one_row_per_user_predicts_the_last_training_item() -> None:
    lengths = [0, 1, 2, 7]
    sequences = Sequences(np.array([0, 0, 1, 3, 10]), np.arange(10, dtype=np.int32))
    rows = training_rows(sequences, "last", max_length=4, rng=np.random.default_rng(0))
    found = [
        (int(r), sequences.items[a:b].tolist(), int(sequences.items[b]))
        for r, a, b in zip(rows.sequence, rows.start, rows.end, strict=True)
    ]
    assert found == [(2, [1], 2), (3, [5, 6, 7, 8], 9)]
    every = training_rows(sequences, "prefixes", max_length=4, rng=np.random.default_rng(0))
    assert len(every) == sum(max(0, n - 1) for n in lengths)


TINY: dict[str, Any] = {
    "max_history": 12,
    "hidden_size": 16,
    "inner_size": 32,
    "batch_size": 64,
    "learning_rate": 0.01,
    "dropout_prob": 0.1,
    "pretrain_epochs": 2,
    "epochs": 2,
}


@pytest.fixture(scope="module")
def task() -> Task:
    return planted_task(n_users=80, n_sources=2)


def tiny(**changes: Any) -> MCRPL:
    return MCRPL(MCRPLConfig(**{**TINY, **changes}))


def prepared(view: TrainView, folder: Path, store: PretrainedStore, *, seed: int = 0) -> MCRPL:
    """A method that has done its stage 1, or found it."""
    method = tiny()
    context = make_context(folder, adapters=store, seed=seed)
    method._shape = {"n_users": 80, "n_items": view.target.n_items}
    method._shape |= method.further_sizes(view, context)
    with isolated_randomness(seed):
        method.model = method.build(**method._shape)
    method.prepare(view, context)
    return method


def stage_1(store: Path) -> dict[str, torch.Tensor]:
    (file,) = store.glob("*/model.safetensors")
    return load_file(file)


def test_the_first_loss_is_the_logarithm_of_all_items(task: Task, tmp_path: Path) -> None:
    method = fitted(tiny(pretrain_epochs=1, epochs=1, learning_rate=1e-9), task, tmp_path)
    assert method.report is not None
    n_union = 3 * task.n_items
    first = method.report.as_dict()["stages"]["stage-1"]["history"][0]["loss"]
    assert first == pytest.approx(math.log(n_union), rel=0.05)


def test_stage_2_starts_from_stage_1_bit_for_bit(task: Task, tmp_path: Path) -> None:
    view = task.train_view(with_sources=True)
    store = MCRPL.adapter_store(tmp_path / "store")
    state = prepared(view, tmp_path / "run", store, seed=5).network.state_dict()
    made = stage_1(store.root)
    assert made.keys() == state.keys()
    assert all(torch.equal(made[name], state[name]) for name in made)


def test_stage_1_depends_neither_on_the_target_nor_on_the_run_seed(tmp_path: Path) -> None:
    view = unlike_task().train_view(with_sources=True)
    one, two = (MCRPL.adapter_store(tmp_path / name) for name in ("one", "two"))
    prepared(view, tmp_path / "a", one)
    prepared(swapped(view), tmp_path / "b", two, seed=1)
    first, second = stage_1(one.root), stage_1(two.root)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_each_stage_trains_on_the_union_ids_of_its_own_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's items begin at 44 of the union, behind those of a source."""
    read: dict[str, list[torch.Tensor]] = {"stage 1": [], "stage 2": []}
    loss = MCRPL._loss

    def watched(
        self: MCRPL, network: MCRPLNetwork, items: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        stage = "stage 2" if network is self.model else "stage 1"
        # The last input is the item before the target.
        read[stage].append(torch.stack((items[:, -1], targets), dim=1))
        return loss(self, network, items, targets)

    monkeypatch.setattr(MCRPL, "_loss", watched)
    task = unlike_task()
    view = task.train_view(with_sources=True)
    method = fitted(tiny(pretrain_epochs=1, epochs=1), task, tmp_path)
    assert (method._shape["first_item"], method._shape["n_items"]) == (44, 50)
    union, _ = union_sequences(view, include_target=True, include_sources=True)
    own = view.target.sequences
    for stage, sequences, first in (("stage 1", union, 0), ("stage 2", own, 44)):
        rows = [sequences[row].astype(int) + first + 1 for row in range(len(sequences))]
        expected = [pair for row in rows for pair in pairwise(row)]
        assert sorted(map(tuple, torch.cat(read[stage]).tolist())) == sorted(expected)


def test_a_killed_run_resumes_with_the_same_weights(tmp_path: Path) -> None:
    task = planted_task(n_users=40, n_sources=1)

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        return fitted(tiny(), task, tmp_path / name, progress=progress).network

    assert_resumes(fit, killed_in=TINY["pretrain_epochs"] + 2)


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [("none", None), ("but-prompts-and-head", {"domain_prompts", "head.weight", "head.bias"})],
)
def test_stage_2_changes_exactly_what_it_should(
    task: Task, tmp_path: Path, freeze: Any, moved: set[str] | None
) -> None:
    method = tiny(freeze=freeze, epochs=1, diff="cross", diff_weight=1.0)
    fitted(method, task, tmp_path)
    before = stage_1(tmp_path / "store")
    after = method.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # The last bias of the mixing network shifts all weights alike: its gradient is rounding.
    assert changed - {"mixing.out.bias"} == (moved or set(before) - {"mixing.out.bias"})


def test_targets_of_a_group_share_stage_1(tmp_path: Path) -> None:
    view = unlike_task().train_view(with_sources=True)
    store = MCRPL.adapter_store(tmp_path / "store")
    uses: list[AdapterUse] = []
    store.watch(lambda used, seconds, cpu: uses.extend(used))
    prepared(view, tmp_path / "first", store)
    made = {path: path.stat().st_mtime_ns for path in store.root.glob("*/model.safetensors")}
    prepared(swapped(view), tmp_path / "second", store)
    assert {p: p.stat().st_mtime_ns for p in store.root.glob("*/model.safetensors")} == made
    assert [use.trained_now for use in uses] == [True, False]
    assert uses[1].cpu_seconds > 0


def test_another_budget_of_stage_2_uses_the_same_stage_1_and_another_seed_too(
    task: Task, tmp_path: Path
) -> None:
    store = MCRPL.adapter_store(tmp_path / "store")
    fitted(tiny(), task, tmp_path / "a", store=store)
    other = tiny(epochs=1, diff="cross", freeze="but-prompts-and-head")
    fitted(other, task, tmp_path / "b", store=store, seed=1)
    assert len(list(store.root.glob("*/model.safetensors"))) == 1
    fitted(tiny(pretrain_epochs=1), task, tmp_path / "c", store=store)
    assert len(list(store.root.glob("*/model.safetensors"))) == 2


def test_scores_are_the_targets_columns_of_the_softmax_over_all_domains(
    task: Task, tmp_path: Path
) -> None:
    method = fitted(tiny(), task, tmp_path)
    first, n_items = method._shape["first_item"], method._shape["n_items"]
    # The domains in order of their names: planted, planted-source-0, planted-source-1.
    assert (first, n_items, method._shape["n_union"]) == (0, 60, 180)
    items, lengths = torch.tensor([[3, 4, 0], [7, 8, 9]]), torch.tensor([2, 3])
    with torch.no_grad():
        method._shape["first_item"] = 60  # as if the second domain were the target
        scores = method.score_all(items, lengths, lengths)
        union = torch.where(items > 0, items + 60, 0)
        logits = method.network.head(method.network(shift_right(union, lengths)))
    assert scores.shape == (2, n_items + 1)
    torch.testing.assert_close(scores[:, 1:], logits[:, 60:120], rtol=0, atol=1e-5)


def test_a_context_without_the_store_is_an_error(task: Task, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="mcrpl: the context holds NoneType"):
        tiny().fit(task.train_view(with_sources=True), make_context(tmp_path, task))


def test_profiles_are_the_stated_ones() -> None:
    cpu, paper, code = (resolve_config(MCRPL, profile=p) for p in ("cpu", "paper", "code"))
    for config, expected in (
        (cpu, ("prefixes", 50, 30, 10, 64, 256)),
        (paper, ("prefixes", 50, 30, 30, 64, 256)),
        (code, ("last", 50, 30, 30, 100, 128)),
    ):
        values: Any = config
        assert expected == (
            values.rows, values.pretrain_epochs, values.epochs, values.patience,
            values.hidden_size, values.batch_size,
        )  # fmt: skip
    assert resolve("mcrpl") is MCRPL


def test_it_conforms() -> None:
    assert_conforms(MCRPL, MCRPLConfig(**TINY | {"pretrain_epochs": 2, "epochs": 2}))


def test_it_learns_the_planted_pattern_and_stage_2_helps(tmp_path: Path) -> None:
    task = planted_task(n_sources=2)
    method = fitted(tiny(pretrain_epochs=1, epochs=6, learning_rate=0.003), task, tmp_path)
    context = make_context(tmp_path / "scratch", task)
    found = metric_per_user(evaluate(method, task.test(task.subset(None)), context), "ndcg@5")
    assert found.mean() > random_row(30)["ndcg@5"] + 0.4

    def validation() -> float:
        requests = task.validation(task.subset(None))
        return float(metric_per_user(evaluate(method, [requests], context), "ndcg@5").mean())

    tuned = validation()
    method.network.load_state_dict(stage_1(tmp_path / "store"))
    assert tuned > validation() + 0.05
