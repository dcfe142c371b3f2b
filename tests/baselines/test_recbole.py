"""GRU4Rec, SASRec and BERT4Rec on RecBole's classes: the properties of their papers and code."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("recbole") is None:
    pytest.skip("RecBole is absent: run `bench assets pull recbole`", allow_module_level=True)

import torch

from bench.baselines.batches import Batch
from bench.baselines.recbole.masking import draw_mask
from bench.baselines.recbole.methods import ALLOWED, REFUSED, BERT4Rec, GRU4Rec, SASRec, method_for
from bench.baselines.recbole.settings import model_settings
from bench.baselines.training import isolated_randomness
from bench.errors import ConfigError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Method
from bench.testing import check_method, evaluate, make_context, planted_task

N_ITEMS = 80
NEXT_ITEM = [GRU4Rec, SASRec]
ALL = [GRU4Rec, SASRec, BERT4Rec]


def built(cls: type[Any], **settings: Any) -> Any:
    """A method with an untrained model in evaluation mode."""
    method = cls(cls.Config(**settings))
    method._shape = {"n_users": 10, "n_items": N_ITEMS}
    with isolated_randomness(0):
        method.model = method.build(10, N_ITEMS).eval()
    return method


def histories(*rows: list[int], width: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(width, *map(len, rows))
    items = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return items, torch.tensor([len(row) for row in rows]), torch.ones(len(rows), dtype=torch.int64)


def scores(method: Any, *rows: list[int], width: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        return method.score_all(*histories(*rows, width=width))


@pytest.mark.parametrize("cls", ALL)
def test_scores_have_one_column_per_item_and_padding(cls: type[Any]) -> None:
    assert scores(built(cls), [1, 2, 3], [4]).shape == (2, N_ITEMS + 1)


@pytest.mark.parametrize("cls", ALL)
def test_wider_padding_changes_nothing(cls: type[Any]) -> None:
    method = built(cls)
    narrow, wide = scores(method, [5, 6, 7], [9, 8]), scores(method, [5, 6, 7], [9, 8], width=40)
    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_items_after_the_length_are_not_read(cls: type[Any]) -> None:
    method = built(cls)
    items, lengths, users = histories([5, 6, 7, 8], [9, 8, 7, 6])
    lengths = torch.tensor([2, 3])
    other = items.clone()
    other[0, 2:], other[1, 3:] = 33, 44
    with torch.inference_mode():
        first = method.score_all(items, lengths, users)
        second = method.score_all(other, lengths, users)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_the_order_of_the_history_and_its_oldest_item_matter(cls: type[Any]) -> None:
    method = built(cls)
    base = scores(method, [5, 6, 7, 8])
    assert (scores(method, [5, 7, 6, 8]) - base).abs().max() > 1e-5
    assert (scores(method, [50, 6, 7, 8]) - base).abs().max() > 1e-5


@pytest.mark.parametrize("cls", ALL)
def test_gathered_scores_equal_recboles_predict(cls: type[Any]) -> None:
    method = built(cls)
    items, lengths, users = histories([5, 6, 7, 8], [9, 8])
    everything = scores(method, [5, 6, 7, 8], [9, 8])
    if cls is BERT4Rec:  # the dummy column that stands in for the one RecBole drops
        items, lengths = torch.cat((items.new_zeros(2, 1), items), 1), lengths + 1
    for item in (1, 40, N_ITEMS):
        with torch.inference_mode():
            one = method.model.predict(
                {
                    "item_id_list": items,
                    "item_length": lengths,
                    "user_id": users,
                    "item_id": torch.full((2,), item),
                }
            )
        torch.testing.assert_close(everything[:, item], one, rtol=0, atol=1e-5)


def prefix_batch() -> Batch:
    rng = np.random.default_rng(0)
    items = rng.integers(1, N_ITEMS + 1, size=(32, 6))
    lengths = rng.integers(1, 7, size=32)
    items[np.arange(6) >= lengths[:, None]] = 0
    return Batch(items, lengths, rng.integers(1, N_ITEMS + 1, size=32), np.arange(32))


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_our_loss_is_recboles_loss(cls: type[Any]) -> None:
    method, batch = built(cls, rows="prefixes"), prefix_batch()
    ours = method._loss(batch, None, torch.device("cpu"))
    theirs = method.model.calculate_loss(
        {
            "item_id_list": torch.from_numpy(batch.items),
            "item_length": torch.from_numpy(batch.lengths),
            "item_id": torch.from_numpy(batch.targets),
        }
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    mine = torch.autograd.grad(ours, list(method.model.parameters()), allow_unused=True)
    other = torch.autograd.grad(theirs, list(method.model.parameters()), allow_unused=True)
    for a, b in zip(mine, other, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_our_bert4rec_loss_is_recboles_where_position_0_is_not_hidden() -> None:
    method, batch = built(BERT4Rec), prefix_batch()
    lengths = np.maximum(batch.lengths, 2)
    items = np.where(np.arange(6) < lengths[:, None], np.maximum(batch.items, 1), 0)
    hidden, predicted = draw_mask(
        lengths,
        6,
        mask_ratio=0.4,
        last_only=False,
        max_masked=10,
        rng=np.random.default_rng(1),
    )
    hidden[:, 0] = predicted[:, 0] = False
    ours = method._loss(items, hidden, predicted, torch.device("cpu"))
    positions = np.where(predicted, np.arange(6), 0)
    theirs = method.model.calculate_loss(
        {
            "Mask_item_id_list": torch.from_numpy(np.where(hidden, N_ITEMS + 1, items)),
            "Pos_item_id": torch.from_numpy(np.where(predicted, items, 0)),
            "Neg_item_id": torch.from_numpy(np.where(predicted, items, 0)),
            "MASK_INDEX": torch.from_numpy(positions),
        }
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("cls", ALL)
def test_the_first_loss_is_that_of_a_uniform_guess(cls: type[Any]) -> None:
    method, batch = built(cls), prefix_batch()
    if cls is BERT4Rec:
        hidden = np.arange(6) == (batch.lengths - 1)[:, None]
        loss = method._loss(batch.items, hidden, hidden, torch.device("cpu"))
    else:
        loss = method._loss(batch, None, torch.device("cpu"))
    assert loss.item() == pytest.approx(math.log(N_ITEMS + 1), abs=0.1)


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_overfits_32_rows(cls: type[Any]) -> None:
    dropouts = (
        {"dropout_prob": 0.0}
        if cls is GRU4Rec
        else {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    )
    method, batch = built(cls, rows="prefixes", **dropouts), prefix_batch()
    method.model.train()
    optimiser = torch.optim.Adam(method.model.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        loss = method._loss(batch, None, torch.device("cpu"))
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_every_position_reads_earlier_items_only(cls: type[Any]) -> None:
    from bench.baselines.recbole.methods import _every_position

    method = built(cls)
    items, lengths, _ = histories([5, 6, 7, 8, 9])
    changed = items.clone()
    changed[0, 3] = 60
    with torch.inference_mode(), _every_position(method.model):
        before, after = method.model(items, lengths), method.model(changed, lengths)
    torch.testing.assert_close(before[0, :3], after[0, :3], rtol=0, atol=1e-6)
    assert (before[0, 3] - after[0, 3]).abs().max() > 1e-5
    assert "gather_indexes" not in vars(method.model)


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_all_positions_give_the_mean_loss_of_all_prefixes(cls: type[Any]) -> None:
    method = built(cls)
    row = [5, 6, 7, 8, 9]
    whole = Batch(
        np.array([row[:-1]]), np.array([4]), np.array([row[1:]]), np.zeros(1, dtype=np.int64)
    )
    single = [
        method._loss(
            Batch(
                np.array([row[:t]]), np.array([t]), np.array([row[t]]), np.zeros(1, dtype=np.int64)
            ),
            None,
            torch.device("cpu"),
        )
        for t in range(1, 5)
    ]
    together = method._loss(whole, None, torch.device("cpu"))
    assert together.item() == pytest.approx(torch.stack(single).mean().item(), abs=1e-5)


def test_sasrec_attention_ignores_padding_and_later_items() -> None:
    method = built(SASRec)
    caught: list[torch.Tensor] = []
    layer = method.model.trm_encoder.layer[0].multi_head_attention
    layer.softmax.register_forward_hook(lambda *args: caught.append(args[2]))
    items, lengths, _ = histories([5, 6, 7], width=5)
    with torch.inference_mode():
        method.model(items, lengths)
    attention = caught[0][0]  # heads, queries, keys
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))
    assert float(attention[:, :3, 3:].max()) == 0.0
    assert float(attention[:, 0, 1:].max()) == 0.0


def test_bert4rec_reads_both_sides_and_never_scores_the_mask() -> None:
    method = built(BERT4Rec)
    model = method.model
    assert model.mask_token == N_ITEMS + 1 == model.n_items
    with torch.inference_mode():
        before = model(torch.tensor([[5, model.mask_token, 7]]))
        after = model(torch.tensor([[5, model.mask_token, 60]]))
    assert (before[0, 1] - after[0, 1]).abs().max() > 1e-5


def test_bert4rec_keeps_the_oldest_item_that_recbole_drops() -> None:
    method = built(BERT4Rec)

    def as_shipped(row: list[int]) -> torch.Tensor:
        items, lengths, users = histories(row)
        with torch.inference_mode():
            return method.model.full_sort_predict(
                {"item_id_list": items, "item_length": lengths, "user_id": users}
            )

    assert torch.equal(as_shipped([5, 6, 7]), as_shipped([50, 6, 7]))
    assert (scores(method, [5, 6, 7]) - scores(method, [50, 6, 7])).abs().max() > 1e-5


def test_bert4rec_reads_histories_as_long_as_the_table_of_positions() -> None:
    method = built(BERT4Rec, max_history=8)
    assert method.max_input == 7
    assert torch.isfinite(scores(method, [1, 2, 3, 4, 5, 6, 7])).all()


class TestMasks:
    def draw(self, lengths: list[int], **changes: Any) -> tuple[np.ndarray, np.ndarray]:
        options = {"mask_ratio": 0.2, "last_only": False, "max_masked": 10} | changes
        return draw_mask(np.array(lengths), max(lengths), rng=np.random.default_rng(0), **options)

    def test_padding_is_never_hidden_and_the_share_is_right(self) -> None:
        lengths = [3, 8, 20] * 400
        hidden, predicted = self.draw(lengths, max_masked=20)
        assert not hidden[np.arange(20) >= np.array(lengths)[:, None]].any()
        assert hidden.sum() / sum(lengths) == pytest.approx(0.2, abs=0.015)
        assert (hidden == predicted).all()

    def test_position_0_counts(self) -> None:
        assert self.draw([4] * 200)[1][:, 0].any()

    def test_only_the_last_ones_count_beyond_the_limit(self) -> None:
        hidden, predicted = self.draw([20] * 50, mask_ratio=0.9, max_masked=3)
        assert (predicted.sum(1) == np.minimum(hidden.sum(1), 3)).all()
        for h, p in zip(hidden, predicted, strict=True):
            assert np.flatnonzero(p).tolist() == np.flatnonzero(h)[-3:].tolist()

    def test_last_only(self) -> None:
        hidden, predicted = self.draw([1, 3, 2], last_only=True)
        assert hidden.argmax(1).tolist() == [0, 2, 1]
        assert (hidden.sum(1) == 1).all()
        assert (hidden == predicted).all()

    def test_a_batch_without_any_mask_hides_its_last_items(self) -> None:
        hidden, _ = self.draw([1], mask_ratio=1e-12)
        assert hidden.tolist() == [[True]]


QUICK = {"epochs": 12, "patience": 12, "learning_rate": 5e-3, "batch_size": 64}


@pytest.mark.parametrize("cls", NEXT_ITEM)
def test_learns_a_planted_pattern(cls: type[Method], tmp_path: Path) -> None:
    assert planted_ndcg(cls, tmp_path, **QUICK) > random_row(30)["ndcg@5"] + 0.5


def planted_ndcg(cls: type[Method], folder: Path, **settings: Any) -> float:
    task = planted_task()
    method = cls(cls.Config(**settings))
    context = make_context(folder, task)
    method.fit(task.train_view(with_sources=False), context)
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    return float(metric_per_user(outcomes, "ndcg@5").mean())


@pytest.mark.parametrize("cls", ALL)
def test_bfloat16_is_used_where_it_is_asked_for(cls: type[Method], tmp_path: Path) -> None:
    task = planted_task(n_users=40)
    values = {}
    for dtype in ("float32", "bfloat16"):
        folder = tmp_path / dtype
        folder.mkdir()
        context = make_context(folder, task, dtype=dtype)
        method = cls(cls.Config(epochs=1))
        method.fit(task.train_view(with_sources=False), context)
        requests, _ = task.validation(task.subset(None))
        values[dtype] = method.score(requests, context).values
        assert values[dtype].dtype == np.float32
    difference = np.abs(values["float32"] - values["bfloat16"]).max()
    assert 0 < difference < 0.1 * np.abs(values["float32"]).max() + 0.05


def test_options_on_the_command_line_of_the_program_do_not_reach_recbole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["bench", "--epochs=9", "--learning_rate=0.5", "--hidden_size=4"]
    monkeypatch.setattr(sys, "argv", list(argv))
    monkeypatch.chdir(tmp_path)
    numpy_names, environment = set(dir(np)), dict(os.environ)
    task = planted_task(n_users=40)
    method = GRU4Rec(GRU4Rec.Config(epochs=1))
    (tmp_path / "scratch").mkdir()
    method.fit(task.train_view(with_sources=False), make_context(tmp_path / "scratch", task))
    assert method.report is not None
    assert len(method.report.history) == 1
    assert method.model.hidden_size == 128
    assert sys.argv == argv
    assert [p.name for p in tmp_path.iterdir()] == ["scratch"]
    assert set(dir(np)) == numpy_names
    assert dict(os.environ) == environment


def test_importing_recbole_leaves_torchs_anomaly_detection_off() -> None:
    code = (
        "import torch, bench.baselines.recbole.methods as m; g = m.GRU4Rec(); g.build(3, 5); "
        "assert not torch.is_anomaly_enabled()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_settings_are_typed_values_never_code() -> None:
    with pytest.raises(ConfigError, match="loss_type"):
        model_settings("STAMP", {"loss_tpye": "BPR"}, max_history=50)
    with pytest.raises(ConfigError, match=r"embedding_size .* is '32\+32'; expected int"):
        model_settings("STAMP", {"embedding_size": "32+32"}, max_history=50)
    for model, key, value, expected in (
        ("STAMP", "loss_type", 5, "str"),
        ("STAMP", "embedding_size", True, "int"),
        ("RepeatNet", "joint_train", 1, "bool"),
    ):
        with pytest.raises(ConfigError, match=rf"{key} .* is {value}; expected {expected}"):
            model_settings(model, {key: value}, max_history=50)
    for model, key, value in (
        ("RepeatNet", "joint_train", True),
        ("SASRec", "hidden_dropout_prob", 0),
    ):
        assert model_settings(model, {key: value}, max_history=50)[key] is value
    assert model_settings("SASRec", {}, max_history=50)["layer_norm_eps"] == 1e-12


def test_bpr_needs_rows_with_one_target() -> None:
    with pytest.raises(ConfigError, match="rows=prefixes"):
        GRU4Rec(GRU4Rec.Config(loss_type="BPR"))


def test_refused_and_unknown_models_say_why() -> None:
    for name, reason in REFUSED.items():
        with pytest.raises(ConfigError, match=f"recbole:{name} is not offered: {reason[:20]}"):
            method_for(name)
    with pytest.raises(ConfigError, match="Did you mean 'NARM'"):
        method_for("NRAM")


@pytest.mark.slow
@pytest.mark.parametrize("cls", ALL)
def test_conformance(cls: type[Method]) -> None:
    failed = [r for r in check_method(cls) if r.status == "fail"]
    assert not failed, "\n".join(f"{r.id}: {r.reason}" for r in failed)


@pytest.mark.slow
def test_bert4rec_learns_a_planted_pattern(tmp_path: Path) -> None:
    # The larger step of the others overshoots where every prefix is a row.
    settings = QUICK | {"learning_rate": 1e-3}
    assert planted_ndcg(BERT4Rec, tmp_path, **settings) > random_row(30)["ndcg@5"] + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("cls", NEXT_ITEM)
@pytest.mark.parametrize(
    "settings",
    [
        {"rows": "prefixes"},
        {"rows": "random-prefix", "epochs": 40},
        {"rows": "prefixes", "loss_type": "BPR"},
    ],
    ids=["prefixes", "random-prefix", "bpr"],
)
def test_other_rows_and_losses_learn(
    cls: type[Method], settings: dict[str, Any], tmp_path: Path
) -> None:
    assert planted_ndcg(cls, tmp_path, **(QUICK | settings)) > random_row(30)["ndcg@5"] + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_every_allowed_model_trains(name: str, tmp_path: Path) -> None:
    # The weakest, NextItNet, reaches 0.48 here; chance is 0.098.
    settings = QUICK | {"rows": "prefixes", "max_history": 20, "epochs": 40, "patience": 40}
    assert planted_ndcg(method_for(name), tmp_path, **settings) > random_row(30)["ndcg@5"] + 0.25
