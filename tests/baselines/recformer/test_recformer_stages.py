"""The rows, losses and steps of RecFormer's training stages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recformer_parts import Parts
from tiny_catalogue import sequences
from torch.nn import functional

from bench.baselines.batches import Rows
from bench.baselines.recformer import masking
from bench.baselines.recformer.encoding import item_vectors
from bench.baselines.recformer.loop import accumulated
from bench.baselines.recformer.stages import (
    Loss,
    Pretraining,
    fine_tuning_losses,
    fine_tuning_rows,
    planned,
    pretraining_rows,
)
from bench.baselines.recformer.texts import TextBatch
from bench.baselines.text import passes
from bench.baselines.training import isolated_randomness

# Three sequences, and the row of each that a batch reads: (1, 0) -> 3, (2) -> 4, (3, 4) -> 1.
HISTORIES = (
    sequences([0, 1, 3], [2, 4], [4, 3, 1]),
    Rows(*(np.array(v) for v in ([0, 1, 2], [0, 3, 5], [2, 4, 7], [1, 1, 1]))),
)


def total(losses: list[Loss]) -> torch.Tensor:
    return torch.stack([loss() for loss in losses]).sum()


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
        losses = fine_tuning_losses(
            parts.model,
            parts.writer,
            parts.table,
            history,
            rows,
            np.array([0, 1]),
            temperature=0.05,
        )
        loss = total(losses)
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
            return torch.ones(len(batch.ids), parts.model.item_vectors.shape[1])

        monkeypatch.setattr(module.model, "forward", constant)
        assert total(self.losses(parts, module)).item() == pytest.approx(math.log(3), abs=1e-5)

    def pretraining(
        self, parts: Parts, *, mlm_weight: float, mlm_share: float = 0.15
    ) -> Pretraining:
        with isolated_randomness(0):
            return Pretraining(
                parts.model,
                vocabulary=parts.model.words.num_embeddings,
                mask_id=int(parts.tokenizer.mask_token_id),
                temperature=0.05,
                mlm_weight=mlm_weight,
                mlm_share=mlm_share,
            ).eval()

    def losses(self, parts: Parts, module: Pretraining) -> list[Loss]:
        rng = np.random.default_rng(0)
        return module.losses(parts.writer, parts.table, *HISTORIES, np.arange(3), rng)

    @pytest.mark.parametrize("stage", ["pre-training", "fine-tuning"])
    def test_groups_of_like_length_add_up_to_the_batch(
        self, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        parts = Parts(folders["bert"])
        module = self.pretraining(parts, mlm_weight=0.5)
        # Every word is hidden by the mask, so that the order of drawing does not matter.
        module.mlm_share = 0.999
        monkeypatch.setattr(masking, "_MASKED", 1.0)
        found = []
        for tokens, groups in ((10_000, 1), (8, 3)):
            monkeypatch.setattr(passes, "_TOKENS", tokens)
            module.zero_grad()
            if stage == "pre-training":
                losses = self.losses(parts, module)
                assert len(losses) == 1 + 2 * groups
            else:
                losses = fine_tuning_losses(
                    parts.model,
                    parts.writer,
                    parts.table,
                    *HISTORIES,
                    np.arange(3),
                    temperature=0.05,
                )
                assert len(losses) == groups
            loss = total(losses)
            loss.backward()
            weight = parts.model.backbone.encoder.layer[0].attention.self.query.weight
            found.append((loss.detach(), weight.grad.clone()))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)

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
                total(module.word_losses(parts.writer, parts.table, rows, rng)) / 0.1
                for rows in (sequences([1, 0], [2], [3, 4]), sequences([3], [4], [1]))
            ]
            found = total(self.losses(parts, module))
        expected = float(contrast) + 0.1 * float(words[0] + words[1])
        assert float(found) == pytest.approx(expected, abs=1e-4)
        # A head that knows nothing yet predicts about uniformly over the vocabulary.
        assert float(words[0]) > 0.5 * math.log(len(parts.tokenizer))

    def test_neither_the_first_token_nor_padding_is_ever_hidden(self, parts: Parts) -> None:
        """In what the model reads, of users and of items, where nearly all words are hidden."""
        module = self.pretraining(parts, mlm_weight=0.1, mlm_share=0.9)
        ids: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        module.model.words.register_forward_hook(lambda _, args, __: ids.append(args[0]))
        module.model.backbone.register_forward_pre_hook(
            lambda _, __, values: masks.append(values["attention_mask"]), with_kwargs=True
        )
        total(self.losses(parts, module))
        hidden = 0
        for read, mask in zip(ids, masks, strict=True):
            assert (read[:, 0] == parts.tokenizer.cls_token_id).all()
            assert (read[mask == 0] == parts.tokenizer.pad_token_id).all()
            hidden += int((read == parts.tokenizer.mask_token_id).sum())
        assert hidden > 20  # of 66 tokens
        assert any((mask == 0).any() for mask in masks)

    def test_accumulated_batches_have_the_gradient_of_their_mean(self) -> None:
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        data = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
        losses = [lambda row=row: (weight * row).sum() ** 2 for row in data]
        # Two batches, the first of two parts.
        (step,) = accumulated([lambda: losses[:2], lambda: losses[2:]], 2)
        found = step()
        found.backward()
        mean = (losses[0]() + losses[1]() + losses[2]()) / 2
        assert found.item() == pytest.approx(mean.item())
        (expected,) = torch.autograd.grad(mean, weight)
        torch.testing.assert_close(weight.grad, expected)
        assert len(accumulated([lambda: losses] * 5, 2)) == 3
