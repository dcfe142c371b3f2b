"""Text to token ids, so that no text from outside can turn into a control token; and chat frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.limits import LimitError, limited

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatFrame", "chat_frame", "control_ids", "encode_texts", "leading_ids", "to_ids"]

_USER = "WEAVEBENCH-USER-TEXT"
_ASSISTANT = "WEAVEBENCH-ASSISTANT-TEXT"
_DATE = "26 Jul 2024"
_RENDER_SECONDS, _RENDER_BYTES = 30.0, 1_000_000_000
"""What rendering a model's own chat template may take; the template comes with the model's files."""
_LONGEST = 1_000_000


def to_ids(values: Sequence[int]) -> NDArray[np.int32]:
    """Token ids as int32, shape ``(len(values),)``."""
    return np.asarray(values, dtype=np.int32)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Ids with a meaning of their own (turn marks, tool calls, ...) and their text.

    Blanks that some vocabularies list among the added tokens are not among them, nor is the id of
    unknown text, which ordinary text may need.
    """
    found = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    found.update(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    found.pop(tokenizer.unk_token_id, None)
    return {i: text for i, text in found.items() if text.strip()}


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[NDArray[np.int32]]:
    """Token ids of every text, without special tokens around or inside.

    A text such as ``<|im_end|>`` stays text. Tokenizers split *special* tokens on request, but match
    other added tokens (``<tool_call>``) even then; such a text is encoded in two halves.

    Returns:
        One int32 array per text; empty for an empty text.
    """
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    arrays = [to_ids(ids) for ids in encoded]
    controls = control_ids(tokenizer)
    if not controls or not arrays:
        return arrays
    forbidden = np.fromiter(controls, dtype=np.int32, count=len(controls))
    lengths = np.array([len(ids) for ids in arrays])
    hits = np.isin(np.concatenate(arrays), forbidden)
    for row in np.unique(np.repeat(np.arange(len(arrays)), lengths)[hits]):
        arrays[row] = _in_halves(tokenizer, texts[row], controls, arrays[row])
    return arrays


def _in_halves(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    controls: dict[int, str],
    ids: NDArray[np.int32],
) -> NDArray[np.int32]:
    """The text again, cut inside the first control token that it was taken for."""
    first = next(controls[int(i)] for i in ids if int(i) in controls)
    at = text.find(first) + 1
    if at == 0 or len(text) < 2:
        return ids
    at = min(at, len(text) - 1)
    return np.concatenate(encode_texts(tokenizer, [text[:at], text[at:]]))


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int32]:
    """What the tokenizer puts in front of plain text by itself: its BOS token, or nothing."""
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    full = tokenizer("x", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if list(full[start : start + len(bare)]) == list(bare):
            return to_ids(full[:start])
    return to_ids([])


@dataclass(frozen=True, slots=True, eq=False)
class ChatFrame:
    """What a chat template puts around a user turn.

    Attributes:
        head: int32, everything before the text of the user (system turn included).
        tail: int32, from the end of the user's text to where the answer begins.
        end: id of the token that ends an answer.
    """

    head: NDArray[np.int32]
    tail: NDArray[np.int32]
    end: int


def chat_frame(tokenizer: PreTrainedTokenizerBase, system: str) -> ChatFrame:
    """Render the tokenizer's chat template once and split it at the user's text.

    Templates that know no system turn get ``system`` in front of the user's text. Templates that
    state a date or a reasoning mode get a fixed date and no reasoning, so that prompts depend neither
    on the day nor on a default.

    Args:
        tokenizer: any tokenizer with a chat template.
        system: text of the system turn; empty for none.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that changes the user's text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, which a prompt with "
            "`chat = true` needs. Use an instruction-tuned backbone, or a template with `chat = false`."
        )
    text, answered = _rendered(tokenizer, system)
    head, _, tail = text.partition(_USER)
    after = answered.rpartition(_ASSISTANT)[2] if _ASSISTANT in answered else ""
    end = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"][:1]
    if not end or int(end[0]) not in control_ids(tokenizer):
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path!r} ends an answer with {after!r}, which "
                "is no special token, and the tokenizer has no end token. Expected one of the two."
            )
        end = [tokenizer.eos_token_id]
    pieces = tokenizer([head, tail], add_special_tokens=False)["input_ids"]
    return ChatFrame(to_ids(pieces[0]), to_ids(pieces[1]), int(end[0]))


def _rendered(tokenizer: PreTrainedTokenizerBase, system: str) -> tuple[str, str]:
    """The turns up to the user's, with or without a system turn; and the same with an answer."""
    from jinja2 import TemplateError

    user = {"role": "user", "content": _USER}
    joined = {"role": "user", "content": f"{system}\n\n{_USER}"}
    attempts = [[{"role": "system", "content": system}, user], [joined]] if system else [[user]]
    problem = "it leaves the text out"
    for turns in attempts:
        try:
            text = _render(tokenizer, turns, True)
            answer = {"role": "assistant", "content": _ASSISTANT}
            answered = _render(tokenizer, [*turns, answer], False)
        except (
            TemplateError,
            ValueError,
            TypeError,
            ArithmeticError,
            LookupError,
            RecursionError,
        ) as error:
            problem = str(error)
            continue
        if text.count(_USER) == 1 and system.strip() in text:
            return text, answered
    raise ConfigError(
        f"the chat template of {tokenizer.name_or_path!r} cannot hold one user turn ({problem}). "
        "Expected a template that repeats the user's text once. Use another backbone."
    )


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], generate: bool) -> str:
    settings: dict[str, Any] = {"enable_thinking": False, "date_string": _DATE}
    try:
        with limited(_RENDER_SECONDS, _RENDER_BYTES):
            text = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generate, **settings
            )
    except LimitError as error:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} cannot be used: {error}. A template of two "
            "turns takes milliseconds; use another backbone."
        ) from error
    if len(text) > _LONGEST:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} makes {len(text):,} characters of two turns; "
            f"at most {_LONGEST:,} are read. Use another backbone."
        )
    text.encode()  # half a surrogate pair is no text
    return str(text)
