"""LLM-Rec's encoder: texts of users and items, scores, and the loss over the choices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_rec_parts import Parts
from tiny_catalogue import TITLES, sequences
from torch.nn import functional

from bench.baselines.llm_rec.model import title_table


class TestTexts:
    def test_a_user_is_the_first_token_and_the_titles_oldest_first(self, parts: Parts) -> None:
        ids, mask = parts.writer.write(parts.table, sequences([3, 0, 1], [2], []))

        def tokens(*history: int) -> list[int]:
            words = [parts.tokenizer.tokenize(TITLES[item] + "; ") for item in history]
            flat = [piece for title in words for piece in title]
            return [parts.tokenizer.cls_token_id, *parts.tokenizer.convert_tokens_to_ids(flat)]

        for row, history in enumerate([(3, 0, 1), (2,), ()]):
            expected = tokens(*history)
            assert ids[row, : len(expected)].tolist() == expected
            assert (ids[row, len(expected) :] == parts.tokenizer.pad_token_id).all()
            assert int(mask[row].sum()) == len(expected)
        assert not (ids == parts.tokenizer.sep_token_id).any()

    def test_titles_are_cut(self, parts: Parts) -> None:
        table = title_table(["toy " * 60], parts.tokenizer, title_tokens=40)
        assert table.lengths.tolist() == [40]

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_padding_changes_no_vector(self, pooling: str, folder: Path) -> None:
        parts = Parts(folder, pooling=pooling, temperature=0.05)
        alone = parts.writer.write(parts.table, sequences([3]))
        wide = parts.writer.write(parts.table, sequences([3], [0, 1, 2, 4]))
        with torch.inference_mode():
            torch.testing.assert_close(
                parts.model(*alone)[0], parts.model(*wide)[0], rtol=0, atol=1e-5
            )

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_vectors_are_those_of_transformers(self, pooling: str, folder: Path) -> None:
        parts = Parts(folder, pooling=pooling)
        pieces = parts.tokenizer.tokenize(TITLES[2] + "; " + TITLES[1] + "; ")
        ids = torch.tensor([[2, *parts.tokenizer.convert_tokens_to_ids(pieces)]])
        with torch.inference_mode():
            states = parts.model.backbone(input_ids=ids).last_hidden_state[0]
            expected = states[0] if pooling == "cls" else states.mean(0)
            found = parts.model.encode(parts.writer, parts.table, sequences([2, 1]))
            torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)

    def test_groups_of_like_length_give_each_row_its_own_vector(self, parts: Parts) -> None:
        rows = sequences([3, 0, 1], [2], [], [4, 4, 4, 4, 4, 4], [5])
        with torch.inference_mode():
            together = parts.model.encode(parts.writer, parts.table, rows)
            for row in range(len(rows)):
                alone = parts.model.encode(parts.writer, parts.table, rows.take(np.array([row])))
                torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)

    def test_an_item_alone_and_in_the_matrix_are_the_same(self, parts: Parts) -> None:
        with torch.inference_mode():
            matrix = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            alone = parts.model.encode_items(parts.writer, parts.table, np.array([4]))
        torch.testing.assert_close(matrix[4], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(matrix[0], matrix[5], rtol=0, atol=1e-5)


class TestScores:
    def test_plain_products_over_the_root_of_the_dimension(self, parts: Parts) -> None:
        users, items = torch.randn(3, 16), torch.randn(5, 16)
        torch.testing.assert_close(parts.model.scores(users, items), users @ items.T / 4)
        assert parts.model.scale() == 1.0

    def test_cosines_over_the_temperature(self, folder: Path) -> None:
        parts = Parts(folder, pooling="mean", temperature=0.05)
        with torch.inference_mode():
            vectors = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            scores = parts.model.scores(vectors, vectors)
        expected = functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1) / 0.05
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("temperature", [None, 0.05])
    def test_the_loss_is_the_cross_entropy_of_the_target(
        self, temperature: float | None, folder: Path
    ) -> None:
        parts = Parts(folder, temperature=temperature)
        items, label = np.array([[0, 1, 3], [4, 5, 2]]), np.array([2, 0])
        first, place = parts.table.distinct()
        history = sequences([1, 2], [3])
        with torch.inference_mode():
            found = parts.model.loss(parts.writer, parts.table, first[place], history, items, label)
            users = parts.model.encode(parts.writer, parts.table, history)
            vectors = parts.model.encode_items(parts.writer, parts.table, np.arange(6))
            logits = (users[:, None] * vectors[items]).sum(-1) / (temperature or 1.0)
        expected = functional.cross_entropy(logits, torch.from_numpy(label))
        assert float(found) == pytest.approx(float(expected), rel=1e-4)

    def test_every_text_of_a_batch_is_encoded_once(
        self, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts: list[int] = []
        forward = parts.model.forward
        monkeypatch.setattr(
            parts.model, "forward", lambda ids, mask: counts.append(len(ids)) or forward(ids, mask)
        )
        first, place = parts.table.distinct()
        items = np.array([[0, 1, 5], [5, 1, 0]])  # 0 and 5 have one title
        parts.model.loss(
            parts.writer, parts.table, first[place], sequences([1], [3]), items, np.zeros(2, int)
        )
        assert sum(counts) == 2 + 2

    def test_equal_vectors_cost_the_log_of_the_choices(
        self, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts.model, "forward", lambda ids, mask: torch.ones(len(ids), 4))
        items = np.tile(np.arange(6), 2)[None, :11]
        loss = parts.model.loss(
            parts.writer, parts.table, np.arange(6), sequences([1]), items, np.zeros(1, int)
        )
        assert float(loss) == pytest.approx(math.log(11), abs=1e-5)
