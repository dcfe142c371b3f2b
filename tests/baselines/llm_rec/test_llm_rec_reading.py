"""What LLM-Rec reads of titles and histories, in training and when it scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_rec_parts import Parts, fitted
from tiny_group import titles_read, unlike_task

from bench.baselines.domains import union_domains, union_sequences
from bench.baselines.llm_rec.model import TextEncoder
from bench.baselines.llm_rec.training import Corpus
from bench.baselines.text.histories import HistoryVectors
from bench.baselines.training import TrainingReport


def title_ids(parts: Parts, title: str) -> list[int]:
    """Token ids of a title and what separates it from the next."""
    return parts.tokenizer.convert_tokens_to_ids(parts.tokenizer.tokenize(f"{title}; "))


def text_of(table: Any, item: int) -> list[int]:
    return table.ids[table.offsets[item] : table.offsets[item + 1]].tolist()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Token ids of every text that reaches the encoder, without padding."""
    texts: list[list[int]] = []
    forward = TextEncoder.forward

    def watched(self: TextEncoder, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        texts.extend(row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True))
        return forward(self, ids, mask)

    monkeypatch.setattr(TextEncoder, "forward", watched)
    return texts


def history_ids(parts: Parts, titles: list[str]) -> list[int]:
    """The newest three of some titles, oldest first, behind the first special token."""
    return [2, *(token for title in titles[-3:] for token in title_ids(parts, title))]


def test_training_reads_every_item_by_its_own_title(
    parts: Parts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With domains of unlike sizes and titles; negatives are of the row's own domain."""
    from bench.baselines.llm_rec import method as module

    caught: list[Corpus] = []

    def watched(model: Any, corpus: Corpus, *_: Any, **__: Any) -> TrainingReport:
        caught.append(corpus)
        return TrainingReport([], 0, "epochs")

    monkeypatch.setattr(module, "train_shared", watched)
    task = unlike_task()
    fitted(folder, tmp_path / "run", task=task)
    (corpus,) = caught
    domains = union_domains(task.train_view(with_sources=True))
    found = [text_of(corpus.table, item) for item in corpus.sequences.items]
    assert found == [title_ids(parts, title) for title in titles_read(domains)]
    _, domain_of_row = union_sequences(
        task.train_view(with_sources=True), include_target=True, include_sources=True
    )
    every = np.arange(len(corpus.rows))
    choices = corpus.choices(corpus.rows, every, np.random.default_rng(0)).items
    ends = np.cumsum([domain.n_items for domain in domains])
    own = domain_of_row[corpus.rows.sequence]
    assert (np.searchsorted(ends, choices, side="right") == own[:, None]).all()


def test_training_reads_the_newest_items_oldest_first(
    parts: Parts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[Any]
) -> None:
    batches: list[tuple[list[Any], list[Any]]] = []
    loss = Corpus.loss

    def watched(self: Corpus, model: Any, rows: Any, chosen: Any, among: Any) -> torch.Tensor:
        read.clear()
        found = loss(self, model, rows, chosen, among)
        items, starts = self.sequences.items, self.sequences.offsets[rows.sequence[chosen]]
        expected = [
            history_ids(parts, [titles[item] for item in items[start:end]])
            for start, end in zip(starts, rows.end[chosen], strict=True)
        ]
        expected += [history_ids(parts, [titles[item]]) for item in np.unique(among.items)]
        batches.append((sorted(read), sorted(expected)))
        return found

    monkeypatch.setattr(Corpus, "loss", watched)
    task = unlike_task()
    domains = union_domains(task.train_view(with_sources=True))
    titles = [title for domain in domains for title in domain.items.titles]
    fitted(folder, tmp_path / "run", task=task, steps=2)
    assert len(batches) == 2
    for found, expected in batches:
        assert found == expected


def test_scoring_reads_the_newest_items_oldest_first(
    parts: Parts, folder: Path, tmp_path: Path, read: list[Any]
) -> None:
    task = unlike_task()
    method, _, context = fitted(folder, tmp_path / "run", task=task, steps=1)
    requests, _ = next(task.test(task.subset(None)).chunks(100))
    # Histories that validation has read are known.
    method._histories = HistoryVectors()
    read.clear()
    method.score(requests, context)
    titles = task.train_view(with_sources=False).target.items.titles
    expected = {
        tuple(history_ids(parts, [titles[item] for item in requests.history[row]]))
        for row in range(len(requests))
    }
    assert set(map(tuple, read)) == expected
