"""Training examples of the LLM methods: token ids, and which of them are to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.errors import MethodError
from bench.llm.prompts import Ids, PromptWriter
from bench.llm.sampling import order_by_item, prompt_keys, sample_prompts, sample_sequences
from bench.protocol.candidates import draw_negatives, eligible_groups, population
from bench.protocol.titles import title_groups
from bench.protocol.types import DomainView

__all__ = [
    "Examples",
    "concat",
    "listwise_examples",
    "pointwise_examples",
    "sample_prompts",
    "sample_sequences",
    "sequence_examples",
]

TOP = 5
"""Titles of a ``top5`` answer: the next one, then negatives."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Training examples in CSR form.

    Attributes:
        tokens: int32, shape ``(n_tokens,)``.
        offsets: int64, shape ``(n + 1,)``.
        labelled: bool, shape ``(n_tokens,)``: the token is a target, predicted from all tokens before
            it in its example. The first token of an example never is.
    """

    tokens: Ids
    offsets: NDArray[np.int64]
    labelled: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all examples."""
        return len(self.tokens)

    @property
    def n_labelled(self) -> int:
        """Tokens that are predicted."""
        return int(self.labelled.sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every example, int64, shape ``(n,)``."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.integer]) -> Examples:
        """The examples at ``rows``, in that order."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Examples(self.tokens[source], offsets, self.labelled[source])

    @classmethod
    def of(cls, rows: Iterable[tuple[Ids, Ids]]) -> Examples:
        """Examples of (prompt, answer) pairs; the answers are labelled."""
        tokens: list[Ids] = [np.empty(0, dtype=np.int32)]
        lengths: list[int] = []
        for prompt, answer in rows:
            tokens += [prompt, answer]
            lengths += [len(prompt), len(answer)]
        # Prompt and answer lengths alternate.
        labelled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        ends = np.cumsum(np.array(lengths, dtype=np.int64))[1::2]
        return cls(np.concatenate(tokens), np.concatenate([np.zeros(1, np.int64), ends]), labelled)


def concat(parts: Sequence[Examples]) -> Examples:
    """All examples of ``parts``, in that order."""
    sizes = np.cumsum([0, *(part.n_tokens for part in parts)])
    offsets = [part.offsets[1:] + start for part, start in zip(parts, sizes, strict=False)]
    return Examples(
        np.concatenate([np.empty(0, np.int32), *(part.tokens for part in parts)]),
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        np.concatenate([np.empty(0, np.bool_), *(part.labelled for part in parts)]),
    )


def sequence_examples(
    writer: PromptWriter, sequences: Sequences, rows: NDArray[np.integer]
) -> Examples:
    """One example per sequence: its newest titles, of which every one after the first is a target.

    The next-title loss of all prefixes in one pass, without candidates.

    Args:
        writer: of a plain template, see :meth:`PromptWriter.sequence`.
        sequences: training sequences.
        rows: row numbers, each of a sequence with at least 2 events.

    Raises:
        MethodError: a sequence that is too short.
        ConfigError: a template that does not allow it.
    """
    short = np.flatnonzero(sequences.lengths[rows] < 2)
    if len(short):
        row = int(rows[short[0]])
        raise MethodError(
            f"training sequence {row} has {len(sequences[row])} events; expected at least 2. Choose "
            "rows with sample_sequences."
        )

    def split(row: int) -> tuple[Ids, Ids]:
        tokens, start = writer.sequence(sequences[row])
        return tokens[:start], tokens[start:]

    return Examples.of(split(int(row)) for row in rows)


def listwise_examples(
    writer: PromptWriter,
    view: DomainView,
    prompts: NDArray[np.integer],
    *,
    seed: int,
    n_negatives: int = 29,
    label: Literal["title", "top5"] = "title",
) -> Examples:
    """One example per (row, position): the listwise prompt and the title at that position.

    The candidates are the positive and ``n_negatives`` training negatives (items outside the user's
    *training* sequence, no two with equal titles), listed by a hash of (user, position, item).

    Args:
        writer: of a ``listwise`` template; ``n_answers`` is 1 for ``title`` and 5 for ``top5``.
        view: the domain.
        prompts: shape ``(n, 2)``, (row, position >= 1) pairs, see :func:`sample_prompts`.
        seed: of negatives and orders.
        n_negatives: negatives per prompt, >= 1 (>= 4 for ``top5``).
        label: ``title``: the positive alone; ``top5``: then four random negatives, as in the
            reference study (Hou et al. 2025, released code), where four fifths of the label are noise.

    Raises:
        MethodError: a position that does not exist, a label that does not fit the writer, or a user
            for whom there are too few negatives.
    """
    n_answers = TOP if label == "top5" else 1
    if writer.n_answers != n_answers or n_negatives < n_answers - 1:
        raise MethodError(
            f"label {label!r} has {n_answers} titles; the prompt asks for {writer.n_answers} and has "
            f"{n_negatives} negatives. Give the writer n_answers={n_answers} and enough negatives."
        )
    candidates = _with_negatives(writer, view, prompts, seed, n_negatives)
    keys = prompt_keys("training-order", view, prompts, seed)
    listed = np.take_along_axis(candidates, order_by_item(keys, candidates), axis=1)

    def example(i: int) -> tuple[Ids, Ids]:
        row, position = prompts[i]
        prompt = writer.prompt(view.sequences[row][:position], listed[i])
        return prompt, writer.listwise_answer(candidates[i, :n_answers])

    return Examples.of(example(i) for i in range(len(prompts)))


def pointwise_examples(
    writer: PromptWriter,
    view: DomainView,
    prompts: NDArray[np.integer],
    *,
    seed: int,
    negatives_per_positive: int = 1,
) -> Examples:
    """``1 + negatives_per_positive`` examples per (row, position): a yes/no question for each item.

    The positive comes first, then its training negatives (as in :func:`listwise_examples`). With
    implicit feedback there are no disliked items to show.

    Args:
        writer: of a ``pointwise`` template.
        view: the domain.
        prompts: shape ``(n, 2)``, (row, position >= 1) pairs, see :func:`sample_prompts`.
        seed: of the negatives.
        negatives_per_positive: >= 1.

    Raises:
        MethodError: a position that does not exist, or a user for whom there are too few negatives.
    """
    items = _with_negatives(writer, view, prompts, seed, negatives_per_positive)

    def questions(i: int) -> Iterator[tuple[Ids, Ids]]:
        row, position = prompts[i]
        prefix = writer.prompt(view.sequences[row][:position])
        for column, item in enumerate(items[i]):
            question = np.concatenate([prefix, writer.suffix(int(item))])
            yield question, writer.yes_no_answer(column == 0)

    return Examples.of(pair for i in range(len(prompts)) for pair in questions(i))


def _with_negatives(
    writer: PromptWriter,
    view: DomainView,
    prompts: NDArray[np.integer],
    seed: int,
    n_negatives: int,
) -> NDArray[np.int32]:
    """The positive of every prompt and its negatives, int32, shape ``(n, 1 + n_negatives)``."""
    sequences, domain = view.sequences, view.name
    rows, positions = prompts[:, 0], prompts[:, 1]
    wrong = np.flatnonzero((positions < 1) | (positions >= sequences.lengths[rows]))
    if len(wrong):
        row, position = prompts[wrong[0]].tolist()
        raise MethodError(
            f"{domain}: position {position} of training sequence {row}, which has "
            f"{len(sequences[row])} events; expected 1 to {len(sequences[row]) - 1}. Choose prompts "
            "with sample_prompts."
        )
    # Titles as they are written, so that no two candidates of an example read alike.
    pop = population(title_groups(StringColumn.from_list(writer.titles)), domain=domain)
    own = sequences.take(rows)
    own = Sequences(own.offsets, pop.groups_of(own.items))
    few = np.flatnonzero(eligible_groups(pop, own) < n_negatives)
    if len(few):
        raise MethodError(
            f"{domain}: user {int(view.users[rows[few[0]]])} has fewer than {n_negatives} distinct titles "
            f"outside the training sequence, of {pop.n_groups} in all. Ask for fewer negatives."
        )
    keys = prompt_keys("training-negatives", view, prompts, seed)
    negatives = draw_negatives(pop, keys, own, n_negatives)
    positives = sequences.items[sequences.offsets[rows] + positions]
    return np.concatenate([positives[:, None], negatives], axis=1)
