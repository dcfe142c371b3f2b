"""Reading JSON and YAML that anybody may have written: the value, or one sentence that says why not.

The standard readers end in a ``RecursionError`` for deep nesting, in a plain ``ValueError`` for an
integer of thousands of digits, and YAML references can name themselves or unfold a short file to
billions of values. Here each of these is a :class:`DocumentError`; the caller adds the file's name.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

__all__ = ["MAX_LENGTH", "DocumentError", "parse_json", "parse_yaml"]

MAX_LENGTH = 4_000_000
"""Longest YAML text; a configuration has some hundred characters."""

_MAX_DEPTH = 100
_MAX_NODES = 100_000
_MAX_INTEGER = 2**64


class DocumentError(ValueError):
    """The text is no document, or a hostile one; ``line`` is where, from 1, or None."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text (UTF-8).

    Raises:
        DocumentError: not JSON, not UTF-8, NaN or an infinity, an integer beyond 64 bits, or values
            nested too deeply.
    """
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode("utf-8-sig"),
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_number,
        )
    except DocumentError:
        raise
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"{error.msg} at line {error.lineno}, column {error.colno}", error.lineno
        ) from error
    except UnicodeDecodeError as error:
        raise DocumentError(_not_utf8(error)) from error
    except RecursionError as error:
        raise DocumentError("its values are nested too deeply") from error


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text (UTF-8) of plain mappings, lists and scalars.

    Raises:
        DocumentError: not YAML, not UTF-8, longer than :data:`MAX_LENGTH`, a number that is not
            finite or beyond 64 bits, a key that stands twice, nested too deeply, or references (``*name``) that contain
            themselves or unfold to more than 100,000 values.
    """
    import yaml

    if len(text) > MAX_LENGTH:
        raise DocumentError(f"{len(text):,} characters; at most {MAX_LENGTH:,} are read")
    try:
        loader = yaml.SafeLoader(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DocumentError(_not_utf8(error)) from error
    except yaml.YAMLError as error:  # a control character
        raise DocumentError(str(error).splitlines()[0]) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _unfold(node, {}, 0)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DocumentError(problem, mark.line + 1 if mark else None) from error
    except RecursionError as error:
        raise DocumentError("its values are nested too deeply") from error
    except DocumentError:
        raise
    # A date of month 13, an integer of 5,000 digits, `!!bool maybe`, `!!timestamp today`.
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise DocumentError(f"a value cannot be read ({str(error).split(';')[0]})") from error
    finally:
        loader.dispose()
    _check_numbers(value)
    return value


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte {error.start} is 0x{error.object[error.start]:02x}, which is not UTF-8"


def _no_number(text: str) -> NoReturn:
    raise DocumentError(f"{text} is no JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _no_number(text)
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _MAX_INTEGER:
        raise DocumentError(f"an integer of {len(text)} digits; at most 64 bits are read")
    return int(text)


def _unfold(node: Node, known: dict[int, int | None], depth: int) -> int:
    """How many values a node stands for, references written out; refuses what has no end.

    ``known`` holds the size of each node seen, None while it is being measured.
    """
    from yaml.nodes import MappingNode, SequenceNode

    key = id(node)
    if key in known:
        size = known[key]
        if size is None:
            raise DocumentError("a reference (*) contains itself", node.start_mark.line + 1)
        return size
    if depth > _MAX_DEPTH:
        raise DocumentError("its values are nested too deeply", node.start_mark.line + 1)
    known[key] = None
    size = 1
    children: list[Node] = []
    if isinstance(node, MappingNode):
        children = [part for pair in node.value for part in pair]
        _require_unique(node)
    elif isinstance(node, SequenceNode):
        children = node.value
    for child in children:
        size += _unfold(child, known, depth + 1)
        if size > _MAX_NODES:
            raise DocumentError(
                f"its references (*) unfold to more than {_MAX_NODES:,} values",
                node.start_mark.line + 1,
            )
    known[key] = size
    return size


def _require_unique(node: MappingNode) -> None:
    """Refuse a key that stands twice: the reader would take the last value without a word."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key.value, str):  # a list or mapping: refused later
            continue
        name = (key.tag, key.value)
        if name in seen:
            raise DocumentError(f"the key {key.value!r} stands twice", key.start_mark.line + 1)
        seen.add(name)


def _check_numbers(value: Any) -> None:
    """Refuse what JSON cannot hold, or no machine number can: hashes and stored runs need both."""
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise DocumentError(f"an integer of {value.bit_length()} bits; at most 64 are read")
    if isinstance(value, float) and not math.isfinite(value):
        raise DocumentError(f"{value} is no finite number")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(key)
            _check_numbers(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _check_numbers(item)
