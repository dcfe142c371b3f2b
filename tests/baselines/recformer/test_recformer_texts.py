"""RecFormer's texts of items and histories, and which of their words are hidden."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from recformer_parts import Parts, items
from tiny_catalogue import TITLES, sequences

from bench.baselines.recformer.masking import IGNORED, mask_words
from bench.baselines.recformer.texts import FIRST, NAME, PADDING, VALUE, item_table


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
        # Half of the rows have 24 words, the others 29; the first token counts too.
        assert chosen.sum(axis=1).tolist() == [round(0.15 * 25)] * 100 + [round(0.15 * 30)] * 100

    def test_a_word_that_does_not_fit_is_skipped_and_shorter_ones_are_still_taken(self) -> None:
        starts = np.random.default_rng(3).random((100, 40)) < 0.4
        starts[:, 1] = True
        rng = np.random.default_rng(0)
        real = np.ones(starts.shape, dtype=np.bool_)
        real[:, 0] = False
        _, labels = mask_words(
            np.full(starts.shape, 7), starts, real, share=0.2, mask_id=4, vocabulary=9, rng=rng
        )
        draws = iter(np.random.default_rng(0).random(int(starts[:, 1:].sum())))
        n_after_a_skip = 0
        for row in range(100):
            begins = [*np.flatnonzero(starts[row, 1:]) + 1, 40]
            words = list(pairwise(begins))
            order = sorted(words, key=dict(zip(words, draws, strict=False)).__getitem__)
            hidden: set[int] = set()
            skipped = False
            for begin, end in order:
                if len(hidden) + end - begin > round(0.2 * 40):
                    skipped = True
                else:
                    hidden |= set(range(begin, end))
                    n_after_a_skip += skipped
            assert set(np.flatnonzero(labels[row] != IGNORED).tolist()) == hidden
        assert n_after_a_skip > 50  # to stop at the first that does not fit would be seen

    def test_a_word_longer_than_the_share_is_never_hidden(self) -> None:
        starts = np.zeros((2, 9), dtype=np.bool_)
        starts[:, 1] = True
        assert self.draw(starts)[2].sum() == 0

    def test_rows_without_words_stay(self) -> None:
        none = np.zeros((3, 1), dtype=np.bool_)
        ids = np.full((3, 1), 7)
        masked, labels = mask_words(
            ids, none, none, share=0.15, mask_id=4, vocabulary=9, rng=np.random.default_rng(0)
        )
        assert (masked == ids).all()
        assert (labels == IGNORED).all()
