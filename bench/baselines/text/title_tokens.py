"""Short texts as token ids, and token rows of item sequences: what fine-tuned encoders read.

A text is tokenised once. Batches are then gathered from flat arrays, so that no tokenizer and no Python
loop runs while a model trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences

__all__ = [
    "TokenRows",
    "TokenTable",
    "join_tables",
    "lay_out",
    "like_widths",
    "n_tokens",
    "newest",
    "stack_tables",
    "tokenise",
    "windows",
]

_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """Tokens of n texts in CSR form, without special tokens.

    Attributes:
        offsets: int64, shape ``(n + 1,)``, starts at 0.
        ids: int32, shape ``(offsets[-1],)``, token ids.
        kinds: uint8, same shape, what a token belongs to; its meaning is the user's.
        starts: bool, same shape, whether a word of the text begins here.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    starts: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, int64, shape ``(n,)``."""
        return np.diff(self.offsets)

    def take(self, places: NDArray[np.integer], lengths: NDArray[np.integer]) -> TokenTable:
        """A table of n texts out of the tokens at ``places``, ``lengths[i]`` of them for text i."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return TokenTable(offsets, self.ids[places], self.kinds[places], self.starts[places])

    def cut(self, most: int) -> TokenTable:
        """The first ``most`` tokens of every text."""
        within = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths)
        return self.take(np.flatnonzero(within < most), np.minimum(self.lengths, most))

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Texts that differ in their tokens.

        Returns:
            one text of every kind, int64, shape ``(m,)``, ascending; and for every text its place
            among them, int64, shape ``(n,)``.
        """
        known: dict[bytes, int] = {}
        first: list[int] = []
        place = np.empty(len(self), dtype=np.int64)
        for row in range(len(self)):
            part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
            key = self.ids[part].tobytes() + self.kinds[part].tobytes()
            place[row] = known.setdefault(key, len(known))
            if len(known) > len(first):
                first.append(row)
        return np.array(first, dtype=np.int64), place


def tokenise(texts: Sequence[str], tokenizer: Any, *, kind: int = 0) -> TokenTable:
    """Token ids of texts, each by itself, without special tokens.

    Args:
        texts: n texts; an empty one has no tokens.
        tokenizer: a fast tokenizer of transformers.
        kind: written to ``kinds`` for all tokens.
    """
    ids: list[int] = []
    starts: list[bool] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for begin in range(0, len(texts), _TEXTS_AT_ONCE):
        part = [str(text) for text in texts[begin : begin + _TEXTS_AT_ONCE]]
        found = tokenizer(
            part,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
        for row, encoding in enumerate(found.encodings or ()):
            ids += encoding.ids
            lengths[begin + row] = len(encoding.ids)
            words = encoding.word_ids
            starts += [k == 0 or words[k] != words[k - 1] for k in range(len(words))]
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return TokenTable(
        offsets,
        np.array(ids, dtype=np.int32),
        np.full(len(ids), kind, dtype=np.uint8),
        np.array(starts, dtype=np.bool_),
    )


def join_tables(tables: Sequence[TokenTable]) -> TokenTable:
    """Text i of the result is text i of every table, one after the other."""
    return reduce(_join, tables)


def _join(first: TokenTable, second: TokenTable) -> TokenTable:
    n = len(first)
    both = stack_tables([first, second])
    # Texts i and n + i become neighbours.
    order = np.stack([np.arange(n), np.arange(n, 2 * n)], axis=1).reshape(-1)
    laid = Sequences(both.offsets, np.arange(len(both.ids), dtype=np.int32)).take(order)
    return both.take(laid.items, first.lengths + second.lengths)


def stack_tables(tables: Sequence[TokenTable]) -> TokenTable:
    """The texts of all tables, table after table."""
    offsets = np.zeros(sum(map(len, tables)) + 1, dtype=np.int64)
    np.cumsum(np.concatenate([table.lengths for table in tables]), out=offsets[1:])
    return TokenTable(
        offsets,
        np.concatenate([table.ids for table in tables]),
        np.concatenate([table.kinds for table in tables]),
        np.concatenate([table.starts for table in tables]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """Where each token of some item sequences stands; arrays of one length t.

    Attributes:
        row: int64, the sequence.
        column: int64, 0-based place in the sequence.
        source: int64, place in the table's ``ids``, ``kinds`` and ``starts``.
        item: int64, 0-based place of the token's item among the items of its sequence.
        lengths: int64, shape ``(b,)``, tokens per sequence; may be 0.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    source: NDArray[np.int64]
    item: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def padded(self, values: NDArray[Any], *, fill: int, first: int, width: int) -> NDArray[Any]:
        """One value per token as a right-padded array with a column for a special token in front.

        Args:
            values: shape ``(t,)``.
            fill: value of the padding.
            first: value of the column in front.
            width: number of columns, more than the longest row has tokens.

        Returns:
            int64, shape ``(b, width)``.
        """
        padded = np.full((len(self.lengths), width), fill, dtype=np.int64)
        padded[:, 0] = first
        padded[self.row, self.column + 1] = values
        return padded


def lay_out(table: TokenTable, sequences: Sequences, *, most: int) -> TokenRows:
    """Write the texts of each sequence one after the other, and cut after ``most`` tokens.

    Args:
        table: one text per item.
        sequences: items of each row, in the order in which they are written; rows may be empty.
        most: longest row in tokens; what comes last is cut.
    """
    items = sequences.items
    per_item = table.lengths[items]
    of_token = np.repeat(np.arange(len(items)), per_item)
    # Tokens before each item, over all rows; a row begins where its first item does.
    before = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum(per_item, out=before[1:])
    place = np.arange(before[-1])
    row = sequences.rows[of_token]
    column = place - before[sequences.offsets[:-1]][row]
    kept = column < most
    of_token, row = of_token[kept], row[kept]
    return TokenRows(
        row=row,
        column=column[kept],
        source=table.offsets[items[of_token]] + place[kept] - before[of_token],
        item=of_token - sequences.offsets[row],
        lengths=np.bincount(row, minlength=len(sequences)),
    )


def n_tokens(table: TokenTable, sequences: Sequences, *, most: int) -> NDArray[np.int64]:
    """Tokens of each row that :func:`lay_out` would write, int64, shape ``(b,)``."""
    before = np.zeros(len(sequences.items) + 1, dtype=np.int64)
    np.cumsum(table.lengths[sequences.items], out=before[1:])
    return np.minimum(np.diff(before[sequences.offsets]), most)


def like_widths(widths: NDArray[np.integer], *, cells: int) -> list[NDArray[np.int64]]:
    """Groups of rows of like width, narrowest first, that hold little padding.

    Args:
        widths: shape ``(n,)``, columns that each row needs.
        cells: most cells (rows times the widest row) of a group; a single row may have more.

    Returns:
        Row numbers of each group; every row occurs once.
    """
    order = np.argsort(widths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        ahead = widths[order[start : start + cells]].astype(np.int64)
        fits = np.flatnonzero(ahead * np.arange(1, len(ahead) + 1) <= cells)
        end = start + (int(fits[-1]) + 1 if len(fits) else 1)
        groups.append(order[start:end])
        start = end
    return groups


def windows(
    sequences: Sequences,
    start: NDArray[np.integer],
    end: NDArray[np.integer],
    *,
    newest_first: bool = False,
) -> Sequences:
    """The events ``[start, end)`` of ``sequences.items`` as rows of their own.

    Args:
        sequences: where the events are.
        start: shape ``(b,)``, positions in ``sequences.items``.
        end: shape ``(b,)``, >= ``start``; equal for an empty row.
        newest_first: whether each row is reversed.
    """
    lengths = end - start
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    if newest_first:
        places = np.repeat(end - 1, lengths) - within
    else:
        places = np.repeat(start, lengths) + within
    return Sequences(offsets, sequences.items[places])


def newest(
    sequences: Sequences, rows: NDArray[np.integer], *, most: int, newest_first: bool = False
) -> Sequences:
    """The newest ``most`` items of some rows, oldest first unless ``newest_first``."""
    end = sequences.offsets[1:][rows]
    start = np.maximum(sequences.offsets[:-1][rows], end - most)
    return windows(sequences, start, end, newest_first=newest_first)
