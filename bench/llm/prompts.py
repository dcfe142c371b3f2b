"""Prompts as token ids: pieces that are tokenised once and joined, the same in training and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.llm.engines.base import Choice
from bench.llm.sampling import candidate_order
from bench.llm.template import Template, load_template
from bench.llm.titles import clean_title, neutralise
from bench.llm.tokens import chat_frame, encode_texts, leading_ids, to_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Pieces", "PromptWriter", "Template", "candidate_order", "load_template"]

Ids = NDArray[np.int32]
Items = NDArray[np.integer] | Sequence[int]

_BATCH = 4096
_SPARE = 16
_NONE = to_ids([])


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Token ids of every item in one role.

    Attributes:
        tokens: int32, of all items one after the other.
        offsets: int64, shape ``(n_items + 1,)``.
        lengths: int64, shape ``(n_items,)``, tokens of every item.
    """

    tokens: Ids
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __getitem__(self, item: int) -> Ids:
        return self.tokens[self.offsets[item] : self.offsets[item + 1]]


class PromptWriter:
    """Writes the prompts and answers of one domain for one backbone.

    Every block of the template is tokenised by itself and the ids are joined, so token boundaries
    never depend on neighbours: what is trained on is what is scored, and all prompts of a user begin
    alike. Titles are text, whatever they hold: they cannot produce control tokens.

    Args:
        template: see :func:`load_template`.
        tokenizer: the backbone's.
        titles: one for each item of the domain, from :func:`bench.llm.titles.prompt_titles`.
        max_history: newest history items that are shown, >= 1.
        max_tokens: most tokens of a prompt *and* its answer, or None. The oldest history items are
            dropped until it holds, never candidates or instructions.
        n_answers: titles of an answer, >= 1; the prompt asks for so many, and room is kept for them.

    Attributes:
        titles: the titles as they are written.

    Raises:
        ConfigError: a limit out of range, a title that is empty, or a template that does not fit the
            tokenizer.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        titles: Sequence[str],
        *,
        max_history: int,
        max_tokens: int | None,
        n_answers: int = 1,
    ) -> None:
        for name, value in (("max_history", max_history), ("n_answers", n_answers)):
            if value < 1:
                raise ConfigError(f"{name} = {value}; expected at least 1.")
        self.template = template
        self.tokenizer = tokenizer
        self.max_history = max_history
        self.max_tokens = max_tokens
        self.n_answers = n_answers
        self.titles = [neutralise(clean_title(t), template.separator) for t in titles]
        if "" in self.titles:
            raise ConfigError(
                f"item {self.titles.index('')} has no visible title. Pass titles through "
                "prompt_titles, which names such items."
            )
        if not template.chat and template.kind != "pointwise" and not template.terminator:
            raise ConfigError(
                f"template {template.name}, block {template.answer_block!r} ends with the title; "
                "expected a terminator after it, such as a line end. Without one a title that begins "
                "another title is overrated."
            )
        # By the text around a title, so that roles that are written alike are tokenised once.
        self._pieces: dict[tuple[str, str], Pieces] = {}
        self._roles: dict[tuple[str, bool], Pieces] = {}
        system = self._text("system")
        if template.chat:
            frame = chat_frame(tokenizer, clean_title(system))
            self._head, self._tail = frame.head, frame.tail
            self._end = to_ids([frame.end])
            system = ""
        else:
            self._head, self._tail, self._end = leading_ids(tokenizer), _NONE, _NONE
        opening, between, after = encode_texts(
            tokenizer, [system + self._text("before"), self._text("between"), self._text("after")]
        )
        self._head = np.concatenate([self._head, opening])
        self._between = between
        self._after = after if template.kind == "pointwise" else np.concatenate([after, self._tail])

    def _text(self, block: str) -> str:
        return self.template.render(block, n_answers=self.n_answers)

    def pieces(self, block: str, *, last: bool) -> Pieces:
        """Token ids of all items in one block; tokenised on first use.

        Args:
            block: ``item``, ``candidate``, ``answer`` or ``suffix``.
            last: whether nothing of the list follows.
        """
        role = self._roles.get((block, last))
        if role is not None:
            return role
        around = self.template.around(block, last=last)
        if around not in self._pieces:
            before, after = around
            arrays: list[Ids] = []
            for start in range(0, len(self.titles), _BATCH):
                part = self.titles[start : start + _BATCH]
                arrays += encode_texts(self.tokenizer, [f"{before}{t}{after}" for t in part])
            lengths = np.array([len(ids) for ids in arrays], dtype=np.int64)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            tokens = np.concatenate([_NONE, *arrays])
            self._pieces[around] = Pieces(tokens, offsets, lengths)
        self._roles[block, last] = self._pieces[around]
        return self._pieces[around]

    def prompt(self, history: Items, candidates: Items | None = None) -> Ids:
        """The prompt of one request.

        Args:
            history: item indices, oldest first; may be empty.
            candidates: item indices in the order in which they are listed; needed by a ``listwise``
                template, not shown by others.

        Returns:
            int32 token ids. For ``pointwise`` they end before :meth:`suffix`.

        Raises:
            ConfigError: no candidates for a ``listwise`` template, or a prompt that is longer than
                ``max_tokens`` even without history.
        """
        listed: list[Ids] = []
        if self.template.kind == "listwise":
            if candidates is None or not len(candidates):
                raise ConfigError(
                    f"template {self.template.name} lists candidates, but the request has none."
                )
            listed = self._list("candidate", candidates)
        items = history[-self.max_history :]
        shown = self._list("item", items)
        if self.max_tokens is not None:
            fixed = sum(map(len, [self._head, self._between, *listed, self._after]))
            shown = self._newest(shown, fixed + self.answer_room(candidates))
        return np.concatenate([self._head, *shown, self._between, *listed, self._after])

    def _list(self, block: str, items: Items) -> list[Ids]:
        pieces = self.pieces(block, last=False)
        listed = [pieces[i] for i in items]
        if listed:
            listed[-1] = self.pieces(block, last=True)[items[-1]]
        return listed

    def _newest(self, shown: list[Ids], fixed: int) -> list[Ids]:
        """As many of the newest items as fit beside ``fixed`` tokens."""
        if self.max_tokens is None:
            return shown
        left = self.max_tokens - fixed
        if left < 0:
            raise ConfigError(
                f"template {self.template.name}: a prompt without any history and its answer take "
                f"{fixed} tokens; the limit is {self.max_tokens}. Raise the limit or cut titles shorter."
            )
        kept = 0
        for piece in reversed(shown):
            left -= len(piece)
            if left < 0:
                break
            kept += 1
        return shown[len(shown) - kept :]

    def answer_room(self, candidates: Items | None = None) -> int:
        """Tokens that the longest possible answer takes, terminators included.

        Args:
            candidates: what an answer can name; None for every item of the domain. For ``pointwise``
                it covers the longest suffix and the answer.
        """
        if self.template.kind == "pointwise":
            yes_no = max(len(ids) for ids in self._yes_no[1:])
            longest = int(self._suffixes.lengths.max(initial=0))
            return longest + len(self._suffix_end) + yes_no + len(self._end)
        block = self.template.answer_block
        longest_first = self.pieces(block, last=False).lengths
        if self.n_answers == 1:
            longest_first = self.pieces(block, last=True).lengths
        if candidates is not None:
            longest_first = longest_first[np.asarray(candidates)]
        return int(np.sort(longest_first)[-self.n_answers :].sum()) + len(self._end)

    def max_new_tokens(self, candidates: Items | None = None) -> int:
        """Limit for generating an answer: ``n_answers`` times the longest title, and some to spare."""
        lengths = self.pieces(self.template.answer_block, last=False).lengths
        if candidates is not None:
            lengths = lengths[np.asarray(candidates)]
        return self.n_answers * int(lengths.max(initial=0)) + _SPARE

    def answer(self, item: int) -> Ids:
        """One title with what ends it: the terminator, or the separator if more titles follow."""
        last = self.n_answers == 1
        piece = self.pieces(self.template.answer_block, last=last)[item]
        return np.concatenate([piece, self._end]) if last else piece

    def listwise_answer(self, items: Items) -> Ids:
        """A whole answer: the titles in order, separators between them, and the end."""
        return np.concatenate([*self._list(self.template.answer_block, items), self._end])

    def choice(self, item: int) -> Choice:
        """One title as a list that is constrained to titles may name it."""
        followed = self.pieces(self.template.answer_block, last=False)[item]
        return Choice(self.titles[item], followed, self.listwise_answer([item]))

    def sequence(self, items: Items) -> tuple[Ids, int]:
        """A history in which every title after the first is an answer.

        Args:
            items: item indices, oldest first, >= 2; the newest ``max_history + 1`` are used, fewer if
                ``max_tokens`` demands it.

        Returns:
            int32 token ids, and how many of them come before the second title.

        Raises:
            ConfigError: the template writes answers unlike history titles, or puts text between the
                history and the answer; or not even two titles fit.
        """
        self._require_running_text()
        shown = self._list("item", items[-(self.max_history + 1) :])
        shown = self._newest(shown, len(self._head))
        if len(shown) < 2:
            raise ConfigError(
                f"only {len(shown)} titles of a sequence of {len(items)} fit into {self.max_tokens} "
                "tokens; expected room for two. Raise the limit or cut titles shorter."
            )
        return np.concatenate([self._head, *shown]), len(self._head) + len(shown[0])

    def _require_running_text(self) -> None:
        template = self.template
        alike = {
            template.around(block, last=last)
            for block in ("item", template.answer_block)
            for last in (False, True)
        }
        if template.kind != "sequence" or template.chat or len(alike) > 1 or len(self._after):
            raise ConfigError(
                f"template {template.name} cannot be trained on whole sequences: that takes a plain "
                "prompt (`chat = false`) of the blocks `before` and `item`, so that every title "
                "follows the ones before it. Use the built-in template 'sequence'."
            )

    @cached_property
    def _suffixes(self) -> Pieces:
        return self.pieces("suffix", last=True)

    @cached_property
    def _yes_no(self) -> tuple[Ids, Ids, Ids]:
        """Tokens that both answers begin with, then the rest of "yes" and of "no"."""
        yes, no = encode_texts(self.tokenizer, [self._text("yes"), self._text("no")])
        shared = 0
        while shared < min(len(yes), len(no)) and yes[shared] == no[shared]:
            shared += 1
        if shared == min(len(yes), len(no)):
            raise ConfigError(
                f"template {self.template.name}: the tokenizer of {self.tokenizer.name_or_path!r} "
                f"turns the answers {self._text('yes')!r} and {self._text('no')!r} into {yes.tolist()} "
                f"and {no.tolist()}; expected answers that differ in a token. Change the blocks."
            )
        return yes[:shared], yes[shared:], no[shared:]

    @cached_property
    def _suffix_end(self) -> Ids:
        return np.concatenate([self._tail, self._yes_no[0]])

    def suffix(self, item: int) -> Ids:
        """What follows the prompt of a ``pointwise`` template: the candidate and the question.

        The next token is the first in which "yes" and "no" differ.
        """
        return np.concatenate([self._suffixes[item], self._suffix_end])

    @property
    def yes_no(self) -> tuple[int, int]:
        """Ids of the first tokens in which the answers "yes" and "no" differ."""
        return int(self._yes_no[1][0]), int(self._yes_no[2][0])

    def yes_no_answer(self, positive: bool) -> Ids:
        """The answer after :meth:`suffix`, with the end of the turn in a chat."""
        return np.concatenate([self._yes_no[1 if positive else 2], self._end])

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids after which an answer is complete, ascending.

        The end of a turn and of a text; in plain prompts for one title also every token that holds
        the terminator, since tokenizers merge it with punctuation before it.
        """
        stops = set(self._end.tolist())
        if self.tokenizer.eos_token_id is not None:
            stops.add(int(self.tokenizer.eos_token_id))
        mark = self.template.terminator if self.template.kind != "pointwise" else ""
        if not self.template.chat and mark and self.n_answers == 1:
            texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            stops |= {i for i, text in enumerate(texts) if mark in text}
        return tuple(sorted(stops))

    def text(self, tokens: Items) -> str:
        """Text of a generated answer up to its end; control tokens are left out."""
        ids = np.asarray(tokens, dtype=np.int64)
        ends = np.flatnonzero(np.isin(ids, self.stop_ids))
        kept = ids[: int(ends[0]) + 1] if len(ends) else ids
        text = self.tokenizer.decode(
            kept.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def title_bytes(self, item: int) -> int:
        """Length of a title in UTF-8 bytes."""
        return len(self.titles[item].encode())
