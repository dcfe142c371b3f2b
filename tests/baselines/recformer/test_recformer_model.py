"""RecFormer's encoder: its embedding, item positions, pooling, padding and attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recformer_parts import KINDS, Parts
from tiny_catalogue import TITLES, sequences
from torch.nn import functional

from bench.baselines.recformer.encoding import item_vectors
from bench.baselines.recformer.model import Recformer
from bench.errors import ConfigError


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
