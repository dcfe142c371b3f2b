"""RecFormer: texts, masking, encoder, stages, and the method on a planted domain."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_encoder import tiny_encoder
from torch.nn import functional

from bench.baselines.batches import Rows
from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.recformer.encoding import encode_sequences, item_vectors
from bench.baselines.recformer.loop import accumulated
from bench.baselines.recformer.masking import IGNORED, mask_words
from bench.baselines.recformer.method import RecFormer
from bench.baselines.recformer.model import Recformer, from_authors
from bench.baselines.recformer.stages import (
    Pretraining,
    fine_tuning_loss,
    fine_tuning_rows,
    planned,
    pretraining_rows,
)
from bench.baselines.recformer.texts import (
    FIRST,
    NAME,
    PADDING,
    VALUE,
    SequenceWriter,
    TextBatch,
    item_table,
)
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.baselines.text.title_tokens import TokenTable
from bench.baselines.training import isolated_randomness
from bench.data.domain import Items, Sequences
from bench.data.strings import StringColumn
from bench.errors import ConfigError
from bench.evaluation import metric_per_user, random_row
from bench.methods import resolve_config
from bench.testing import CHECKS, check_method, evaluate, make_context, planted_task

TITLES = [
    "red toy story",
    "blue hand cream",
    "green body wash large pack",
    "star wars",
    "small hair lotion set",
    "red toy story",
]
KINDS = ["bert", "longformer"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {kind: tiny_encoder(root / kind, architecture=kind) for kind in KINDS}  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def items(**extra: list[str]) -> Items:
    return Items(
        StringColumn.from_list([f"i{k}" for k in range(len(TITLES))]),
        StringColumn.from_list(TITLES),
        {name: StringColumn.from_list(values) for name, values in extra.items()},
    )


def sequences(*rows: list[int]) -> Sequences:
    flat = [item for row in rows for item in row]
    return Sequences(
        np.cumsum([0, *map(len, rows)]).astype(np.int64), np.array(flat, dtype=np.int32)
    )


class Parts:
    """A model on a tiny encoder, with texts and a writer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        backbone, self.tokenizer = load_encoder_model(resolve_encoder(str(folder)))
        settings = {"max_history": 10, "pooling": "cls", "attention_window": 16} | changes
        with isolated_randomness(0):
            self.model = Recformer(backbone, n_items=len(TITLES), **settings).eval()
        self.table = item_table(items(), self.tokenizer, attributes=["title"], attribute_tokens=16)
        self.writer = SequenceWriter(
            first_id=int(self.tokenizer.cls_token_id),
            pad_id=self.model.pad_id,
            max_tokens=64,
            padding_item=self.model.padding_item,
            multiple=self.model.multiple,
        )

    def vector(self, *history: int) -> torch.Tensor:
        """Vector of one history, newest first."""
        with torch.inference_mode():
            return encode_sequences(self.model, self.writer, self.table, sequences(list(history)))[
                0
            ]


@pytest.fixture(params=KINDS)
def parts(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Parts:
    return Parts(folders[request.param])


class TestTexts:
    def test_an_item_is_names_and_values_each_cut(self, folders: dict[str, Path]) -> None:
        tokenizer = Parts(folders["bert"]).tokenizer
        brands = ["toy", "", "hand", "body", "hair", "toy"]
        table = item_table(
            items(brand=brands),
            tokenizer,
            attributes=["title", "brand"],
            attribute_tokens=9,
        )

        def tokens(text: str) -> list[int]:
            return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))

        for row, (title, brand) in enumerate(zip(TITLES, brands, strict=True)):
            part = slice(int(table.offsets[row]), int(table.offsets[row + 1]))
            first = (tokens("title") + tokens(title))[:9]
            second = (tokens("brand") + tokens(brand))[:9]
            assert table.ids[part].tolist() == first + second
            n_name, m_name = len(tokens("title")), len(tokens("brand"))
            kinds = [NAME] * n_name + [VALUE] * (len(first) - n_name)
            kinds += [NAME] * m_name + [VALUE] * (len(second) - m_name)
            assert table.kinds[part].tolist() == kinds

    def test_a_field_that_the_domain_lacks_is_named(self, folders: dict[str, Path]) -> None:
        tokenizer = Parts(folders["bert"]).tokenizer
        with pytest.raises(ConfigError, match="no 'brand', only title"):
            item_table(items(), tokenizer, attributes=["brand"], attribute_tokens=8)

    def test_a_sequence_begins_with_the_first_token_and_the_newest_item(self, parts: Parts) -> None:
        batch = parts.writer.write(parts.table, sequences([3, 0], [], [1]))
        assert len({getattr(batch, name).shape for name in ("ids", "types", "items", "mask")}) == 1
        assert (batch.ids[:, 0] == parts.tokenizer.cls_token_id).all()
        assert (batch.types[:, 0] == FIRST).all()
        assert (batch.items[:, 0] == 0).all()
        n3, n0 = (int(parts.table.lengths[item]) for item in (3, 0))
        assert batch.items[0, 1 : 1 + n3 + n0].tolist() == [1] * n3 + [2] * n0
        assert batch.mask[1].tolist() == [1] + [0] * (batch.mask.shape[1] - 1)
        padding = batch.mask == 0
        assert (batch.types[padding] == PADDING).all()
        assert (batch.items[padding] == parts.model.padding_item).all()
        assert (batch.ids[padding] == parts.model.pad_id).all()
        assert batch.ids.shape[1] % parts.model.multiple == 0

    def test_cutting_removes_the_oldest_tokens(self, parts: Parts) -> None:
        writer = replace(parts.writer, max_tokens=12)
        short = writer.write(parts.table, sequences([3, 0, 4, 2]))
        whole = parts.writer.write(parts.table, sequences([3, 0, 4, 2]))
        assert int(short.mask.sum()) == 12
        assert torch.equal(short.ids[0, :12], whole.ids[0, :12])
        assert torch.equal(short.items[0, :12], whole.items[0, :12])


class TestMasking:
    def draw(
        self, starts: np.ndarray, share: float = 0.15, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        ids = rng.integers(100, 200, size=starts.shape)
        real = np.ones(starts.shape, dtype=np.bool_)
        real[:, 0] = False
        real[: len(real) // 2, -5:] = False
        masked, labels = mask_words(
            ids, starts, real, share=share, mask_id=4, vocabulary=50, rng=rng
        )
        chosen = labels != IGNORED
        assert not chosen[~real].any()
        assert (labels[chosen] == ids[chosen]).all()
        assert (masked[~chosen] == ids[~chosen]).all()
        return ids, masked, chosen

    def test_the_share_and_the_80_10_10_of_hidden_tokens(self) -> None:
        starts = np.random.default_rng(1).random((400, 60)) < 0.7
        ids, masked, chosen = self.draw(starts)
        assert chosen.sum() / (400 * 59 - 200 * 5) == pytest.approx(0.15, abs=0.01)
        shares = [
            (masked[chosen] == 4).mean(),
            (masked[chosen] == ids[chosen]).mean(),
            ((masked[chosen] < 50) & (masked[chosen] != 4)).mean(),
        ]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.025)

    def test_words_are_hidden_whole_or_not_at_all(self) -> None:
        starts = np.random.default_rng(2).random((100, 40)) < 0.4
        starts[:, 1] = True
        _, _, chosen = self.draw(starts)
        for row in range(50, 100):  # rows without padding
            words = np.cumsum(starts[row, 1:])
            for word in np.unique(words):
                assert len(set(chosen[row, 1:][words == word].tolist())) == 1

    def test_every_row_hides_something_and_no_row_more_than_its_share(self) -> None:
        starts = np.ones((200, 30), dtype=np.bool_)
        _, _, chosen = self.draw(starts)
        assert set(chosen.sum(axis=1).tolist()) == {round(0.15 * 24), round(0.15 * 29)}

    def test_a_row_of_one_long_word_is_hidden(self) -> None:
        starts = np.zeros((2, 9), dtype=np.bool_)
        starts[:, 1] = True
        assert self.draw(starts)[2].sum(axis=1).tolist() == [3, 8]

    def test_rows_without_words_stay(self) -> None:
        none = np.zeros((3, 1), dtype=np.bool_)
        ids = np.full((3, 1), 7)
        masked, labels = mask_words(
            ids, none, none, share=0.15, mask_id=4, vocabulary=9, rng=np.random.default_rng(0)
        )
        assert (masked == ids).all()
        assert (labels == IGNORED).all()


class TestEncoder:
    def test_embedding_is_the_layer_norm_of_the_sum_of_four_tables(self, parts: Parts) -> None:
        caught: list[torch.Tensor] = []
        embeddings = parts.model.backbone.embeddings
        embeddings.register_forward_hook(lambda *args: caught.append(args[2]))
        batch = parts.writer.write(parts.table, sequences([3, 0], [1]))
        with torch.inference_mode():
            parts.model(batch)
            # Longformer, like RoBERTa, counts positions from the padding id (0 here) + 1 on.
            first = 1 if parts.model.is_longformer else 0
            places = torch.where(
                batch.mask.bool(), torch.arange(batch.ids.shape[1]) + first, torch.tensor(0)
            )
            total = (
                embeddings.word_embeddings.weight[batch.ids]
                + embeddings.position_embeddings.weight[places]
                + embeddings.token_type_embeddings.weight[batch.types]
                + parts.model.item_positions.weight[batch.items]
            )
            norm = embeddings.LayerNorm
            expected = functional.layer_norm(
                total, total.shape[-1:], norm.weight, norm.bias, norm.eps
            )
        torch.testing.assert_close(caught[0], expected, rtol=0, atol=1e-5)

    def test_tables_have_the_authors_sizes(self, parts: Parts) -> None:
        assert parts.model.backbone.embeddings.token_type_embeddings.weight.shape == (4, 32)
        assert parts.model.item_positions.weight.shape == (51, 32)
        assert parts.model.padding_item == 50

    def test_a_candidate_is_a_history_of_one(self, parts: Parts) -> None:
        with torch.inference_mode():
            vectors = item_vectors(parts.model, parts.writer, parts.table)
        for item in (0, 3):
            assert float(parts.vector(item) @ vectors[item]) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TITLES)))
        assert torch.equal(vectors[0], vectors[5])  # one title
        assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_padding_changes_no_vector(
        self, kind: str, pooling: str, folders: dict[str, Path]
    ) -> None:
        parts = Parts(folders[kind], pooling=pooling)
        alone = parts.writer.write(parts.table, sequences([3]))
        wide = parts.writer.write(parts.table, sequences([3], [0, 1, 2, 4, 3, 2]))
        assert wide.ids.shape[1] > alone.ids.shape[1]
        with torch.inference_mode():
            torch.testing.assert_close(
                parts.model(alone)[0], parts.model(wide)[0], rtol=0, atol=1e-5
            )

    def test_mean_pooling_is_the_mean_of_the_tokens(self, folders: dict[str, Path]) -> None:
        parts = Parts(folders["bert"], pooling="mean")
        batch = parts.writer.write(parts.table, sequences([3], [1, 2]))
        with torch.inference_mode():
            states = parts.model.states(batch)
            found = parts.model(batch)
        n = int(batch.mask[0].sum())
        expected = functional.normalize(states[0, :n].mean(0), dim=0)
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)

    def test_item_positions_tell_the_items_apart(self, parts: Parts) -> None:
        batch = parts.writer.write(parts.table, sequences([3, 0]))
        same = replace(batch, items=batch.items.clamp(max=1))
        with torch.inference_mode():
            apart = (parts.model(batch) - parts.model(same)).abs().max()
            assert apart > 1e-4
            assert (parts.vector(3, 0) - parts.vector(0, 3)).abs().max() > 1e-4
            # Without the table only the places of the words are left.
            parts.model.item_positions.weight.zero_()
            torch.testing.assert_close(parts.model(batch), parts.model(same))
            assert (parts.vector(3, 0) - parts.vector(0, 3)).abs().max() > 1e-4

    def test_an_empty_history_has_a_vector(self, parts: Parts) -> None:
        vector = parts.vector()
        assert torch.isfinite(vector).all()
        assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)

    def test_a_longformer_attends_globally_from_its_first_token_only(
        self, folders: dict[str, Path]
    ) -> None:
        parts = Parts(folders["longformer"])
        seen: dict[str, Any] = {}
        forward = parts.model.backbone.forward

        def watched(**given: Any) -> Any:
            seen.update(given)
            return forward(**given)

        parts.model.backbone.forward = watched
        parts.vector(3, 0)
        wanted = torch.zeros_like(seen["attention_mask"])
        wanted[:, 0] = 1
        assert torch.equal(seen["global_attention_mask"], wanted)
        spans = {
            layer.attention.self.one_sided_attn_window_size
            for layer in parts.model.backbone.encoder.layer
        }
        assert spans == {8}

    def test_encoders_without_berts_embeddings_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="embedding layer like BERT's"):
            Recformer(
                torch.nn.Linear(2, 2),
                n_items=1,
                max_history=3,
                pooling="cls",
                attention_window=16,
            )


class TestStages:
    def test_fine_tuning_targets_are_uniform_over_all_positions(self) -> None:
        history = sequences(*([[0, 1, 2, 3]] * 400), [], [4])
        rows = fine_tuning_rows(history, max_history=2, rng=np.random.default_rng(0))
        assert len(rows) == 401
        targets = history.items[rows.end][:400]
        assert np.bincount(targets) / 400 == pytest.approx([0.25] * 4, abs=0.07)
        assert (rows.lengths == np.minimum(history.items[rows.end] % 4, 2)).all()

    def test_pretraining_targets_lie_in_the_later_half(self) -> None:
        history = sequences(*([list(range(7))] * 300), [5], [1, 2])
        rows = pretraining_rows(history, max_history=50, rng=np.random.default_rng(0))
        assert len(rows) == 301
        assert set(history.items[rows.end][:300].tolist()) == {3, 4, 5, 6}
        assert (rows.lengths >= 1).all()

    def test_an_epoch_is_all_rows_or_some_of_them(self) -> None:
        history = sequences(*([[0, 1, 2]] * 50))
        rng = np.random.default_rng(0)
        rows = fine_tuning_rows(history, max_history=5, rng=rng)
        every = np.concatenate(planned(rows, batch_size=8, most=None, rng=rng))
        assert sorted(every.tolist()) == list(range(50))
        some = planned(rows, batch_size=8, most=3, rng=rng)
        assert [len(batch) for batch in some] == [8, 8, 8]
        assert len(set(np.concatenate(some).tolist())) == 24

    def test_stage_loss_is_the_softmax_over_the_item_matrix(self, folders: dict[str, Path]) -> None:
        parts = Parts(folders["bert"])
        with torch.no_grad():
            parts.model.item_vectors.copy_(item_vectors(parts.model, parts.writer, parts.table))
        before = parts.model.item_vectors.clone()
        history = sequences([0, 1, 3], [2, 4])
        rows = Rows(*(np.array(v) for v in ([0, 1], [0, 3], [2, 4], [1, 1])))
        loss = fine_tuning_loss(
            parts.model,
            parts.writer,
            parts.table,
            history,
            rows,
            np.array([0, 1]),
            temperature=0.05,
        )
        logits = torch.stack([parts.vector(1, 0), parts.vector(2)]) @ before.T / 0.05
        expected = functional.cross_entropy(logits, torch.tensor([3, 4]))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
        assert logits.abs().max() <= 20 + 1e-4
        optimiser = torch.optim.SGD(parts.model.parameters(), lr=0.1)
        weight = parts.model.backbone.encoder.layer[0].attention.self.query.weight
        old = weight.detach().clone()
        loss.backward()
        optimiser.step()
        assert not torch.equal(weight, old)
        assert torch.equal(parts.model.item_vectors, before)

    def test_contrast_of_equal_vectors_is_the_log_of_the_batch(
        self, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = Parts(folders["bert"])
        module = self.pretraining(parts, mlm_weight=0.0)

        def constant(batch: TextBatch) -> torch.Tensor:
            return torch.ones(len(batch.ids), 8)

        monkeypatch.setattr(module.model, "forward", constant)
        assert self.loss(parts, module).item() == pytest.approx(math.log(3), abs=1e-5)

    def pretraining(self, parts: Parts, *, mlm_weight: float) -> Pretraining:
        with isolated_randomness(0):
            return Pretraining(
                parts.model,
                vocabulary=parts.model.words.num_embeddings,
                mask_id=int(parts.tokenizer.mask_token_id),
                temperature=0.05,
                mlm_weight=mlm_weight,
                mlm_share=0.15,
            ).eval()

    def loss(self, parts: Parts, module: Pretraining) -> torch.Tensor:
        history = sequences([0, 1, 3], [2, 4], [4, 3, 1])
        rows = Rows(*(np.array(v) for v in ([0, 1, 2], [0, 3, 5], [2, 4, 7], [1, 1, 1])))
        return module.loss(
            parts.writer,
            parts.table,
            history,
            rows,
            np.arange(3),
            np.random.default_rng(0),
        )

    def test_pretraining_is_contrast_and_a_tenth_of_both_word_losses(
        self, folders: dict[str, Path]
    ) -> None:
        parts = Parts(folders["bert"])
        module = self.pretraining(parts, mlm_weight=0.1)
        users = torch.stack([parts.vector(1, 0), parts.vector(2), parts.vector(3, 4)])
        positives = torch.stack([parts.vector(3), parts.vector(4), parts.vector(1)])
        contrast = functional.cross_entropy(users @ positives.T / 0.05, torch.arange(3))
        with torch.no_grad():
            rng = np.random.default_rng(0)
            words = [
                module.word_loss(parts.writer.write(parts.table, rows), rng)
                for rows in (sequences([1, 0], [2], [3, 4]), sequences([3], [4], [1]))
            ]
            found = self.loss(parts, module)
        expected = float(contrast) + 0.1 * float(words[0] + words[1])
        assert float(found) == pytest.approx(expected, abs=1e-4)
        # A head that knows nothing yet predicts about uniformly over the vocabulary.
        assert float(words[0]) > 0.5 * math.log(len(parts.tokenizer))

    def test_accumulated_batches_have_the_gradient_of_their_mean(self) -> None:
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        data = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
        losses = [lambda row=row: (weight * row).sum() ** 2 for row in data]
        steps = accumulated(losses, 2)
        assert len(steps) == 2
        found = steps[0]()
        found.backward()
        mean = torch.stack([losses[0](), losses[1]()]).mean()
        assert found.item() == pytest.approx(mean.item())
        (expected,) = torch.autograd.grad(mean, weight)
        torch.testing.assert_close(weight.grad, expected)


QUICK = {
    "learning_rate": 3e-3,
    "pretrain_learning_rate": 3e-3,
    "freeze_words": False,
    "max_history": 3,
    "steps": 30,
    "epochs": 2,
    "stage2_epochs": 1,
    "pretrain_epochs": 1,
    "pretrain_steps": 8,
}


def fitted(
    folder: Path, scratch: Path, *, task: Any = None, **changes: Any
) -> tuple[RecFormer, Any, Any]:
    task = task or planted_task(n_users=60, n_sources=2)
    config = RecFormerConfig(**{**QUICK, "encoder": str(folder), "steps": 3, **changes})
    method = RecFormer(config)
    context = make_context(scratch, task, adapters=RecFormer.adapter_store(scratch / "adapters"))
    method.fit(task.train_view(with_sources=config.pretrain == "sources"), context)
    return method, task, context


def test_stage_1_encodes_items_anew_and_stage_2_keeps_the_matrix(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.Tensor] = []
    from bench.baselines.recformer import method as module

    def watched(*args: Any) -> torch.Tensor:
        made.append(item_vectors(*args))
        return made[-1]

    monkeypatch.setattr(module, "item_vectors", watched)
    method, _, _ = fitted(folders["bert"], tmp_path, stage2_epochs=2)
    assert len(made) == 2  # one per epoch of stage 1, none in stage 2
    assert not torch.allclose(made[0], made[1], atol=1e-4)
    kept = method.recformer.item_vectors
    assert any(torch.equal(kept, matrix) for matrix in made)
    assert method.report is not None
    assert set(method.report.stages) == {"pre-training", "stage 1"}
    assert len(method.report.history) == 2


def test_the_better_stage_is_kept(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=40)
    figures = iter([0.5, 0.4, 0.1])
    states: list[dict[str, torch.Tensor]] = []
    config = RecFormerConfig(**{**QUICK, "encoder": str(folders["bert"]), "pretrain": "none"})
    method = RecFormer(config.model_copy(update={"steps": 2}))
    context = make_context(tmp_path, task)

    def validate(found: Any) -> Any:
        states.append({k: v.clone() for k, v in found.recformer.state_dict().items()})
        return type("Figures", (), {"ndcg": {5: next(figures)}})()

    monkeypatch.setattr(type(context), "validate", lambda self, found: validate(found))
    method.fit(task.train_view(with_sources=False), context)
    assert method.report is not None
    assert method.report.stages["stage 1"]["kept"] is True
    for name, value in method.recformer.state_dict().items():
        torch.testing.assert_close(value, states[0][name], rtol=0, atol=0)


def test_a_killed_run_resumes_with_the_same_result(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=40, n_sources=1)
    whole, _, context = fitted(folders["bert"], tmp_path / "whole", task=task)
    requests, _ = task.validation(task.subset(None))
    expected = whole.score(requests, context).values
    from bench.baselines.recformer import method as module

    calls: list[int] = []

    def killed(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return item_vectors(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "item_vectors", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(folders["bert"], tmp_path / "killed", task=task)
    again, _, context = fitted(folders["bert"], tmp_path / "killed", task=task)
    np.testing.assert_array_equal(again.score(requests, context).values, expected)


def test_word_vectors_are_frozen_in_pretraining_only(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    start = load_encoder_model(resolve_encoder(str(folders["bert"])))[0]
    words = start.embeddings.word_embeddings.weight
    for frozen in (True, False):
        made, _, _ = fitted(
            folders["bert"], tmp_path / str(frozen), pretrain="sources", freeze_words=frozen
        )
        (stored,) = (tmp_path / str(frozen) / "adapters").rglob("*.safetensors")
        (name,) = [key for key in load_file(stored) if key.endswith("word_embeddings.weight")]
        assert torch.equal(load_file(stored)[name], words) is frozen
        assert not torch.equal(made.recformer.words.weight, words)


@pytest.mark.parametrize("prefix", ["longformer.", "model.longformer."])
def test_the_authors_checkpoint_replaces_the_encoder(
    prefix: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    source = Parts(tiny_encoder(tmp_path / "other", architecture="longformer", seed=5)).model
    state = {
        prefix
        + name.removeprefix("backbone.").replace(
            "item_positions.weight", "embeddings.item_position_embeddings.weight"
        ): value
        for name, value in source.state_dict().items()
        if name != "item_vectors"
    }
    file = tmp_path / "pretrained.bin"
    torch.save({"state_dict": {**state, "lm_head.bias": torch.zeros(3)}}, file)
    target = Parts(folders["longformer"]).model
    own = from_authors(state, "test")
    assert set(own) == set(source.state_dict()) - {"item_vectors"}
    target.load_state_dict(own, strict=False)
    method, _, _ = fitted(
        folders["longformer"],
        tmp_path,
        checkpoint=str(file),
        attention_window=16,
        pooling="cls",
        steps=1,
        epochs=1,
        learning_rate=1e-12,
        stage2_epochs=0,
    )
    found = method.recformer.state_dict()
    for name, value in own.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_other_checkpoints_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 0 tensors named"):
        from_authors({"embeddings.word_embeddings.weight": torch.zeros(2)}, "x.bin")
    config = RecFormerConfig(encoder=str(folders["bert"]), checkpoint=str(tmp_path / "no.bin"))
    assert config.pretrain == "none"
    with pytest.raises(ConfigError, match="no such file"):
        RecFormer.require(config)
    with pytest.raises(ValueError, match="two starts"):
        RecFormerConfig(checkpoint="x.bin", pretrain="sources")


def test_sequences_longer_than_the_encoder_reads_are_refused(
    tmp_path: Path,
) -> None:
    folder = tiny_encoder(tmp_path / "short", positions=64)
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        fitted(folder, tmp_path, pretrain="none", max_tokens=65)


def test_profiles_and_notes() -> None:
    paper = resolve_config(RecFormer, profile="paper")
    assert (paper.max_history, paper.attribute_tokens, paper.max_tokens) == (50, 32, 1024)
    assert paper.batch_size * paper.accumulate == 128
    assert paper.temperature == 0.05
    assert RecFormer.row_note(RecFormerConfig()) == "source pre-trained, MiniLM"
    assert RecFormer.row_note(RecFormerConfig(pretrain="none")) == "no pre-training, MiniLM"
    assert RecFormer.row_note(RecFormerConfig(checkpoint="x", encoder=paper.encoder)) == ""


def test_learns_a_planted_pattern(folders: dict[str, Path], tmp_path: Path) -> None:
    method, task, context = fitted(
        folders["bert"], tmp_path, task=planted_task(n_sources=2), **{**QUICK, "epochs": 4}
    )
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    figure = float(metric_per_user(outcomes, "ndcg@5").mean())
    assert figure > random_row(30)["ndcg@5"] + 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_conforms(kind: str, folders: dict[str, Path]) -> None:
    config = RecFormerConfig(
        **{**QUICK, "encoder": str(folders[kind]), "steps": 2, "pretrain_steps": 2},
        attention_window=16,
    )
    # The pattern takes a longer training, in the test above.
    checks = [check for check in CHECKS if check != "learns-planted-pattern"]
    if kind == "longformer":
        checks = ["fits", "scores-form", "empty-history", "batch-invariance"]
    failed = [r for r in check_method(RecFormer, config, checks=checks) if r.status == "fail"]
    assert not failed, failed


def test_tables_survive_saving(folders: dict[str, Path], tmp_path: Path) -> None:
    method, task, context = fitted(folders["bert"], tmp_path)
    folder = tmp_path / "saved"
    folder.mkdir()
    method.save(folder)
    again = RecFormer(method.config)
    again.load(folder)
    texts, other = method._fitted()[0], again._fitted()[0]
    assert isinstance(other, TokenTable)
    np.testing.assert_array_equal(texts.ids, other.ids)
    requests, _ = task.validation(task.subset(None))
    np.testing.assert_allclose(
        again.score(requests, context).values, method.score(requests, context).values, atol=1e-5
    )


def test_other_candidates_of_the_same_users_need_no_encoding(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task, context = fitted(folders["bert"], tmp_path)
    requests, _ = task.validation(task.subset(None))
    first = method.score(requests, context).values
    monkeypatch.setattr(method.recformer, "forward", lambda batch: 1 / 0)
    swapped = replace(requests, candidates=requests.candidates[:, ::-1].copy())
    np.testing.assert_array_equal(method.score(swapped, context).values, first[:, ::-1])
