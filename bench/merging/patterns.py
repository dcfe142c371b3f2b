"""Which module an expression of ``rank_pattern`` or ``alpha_pattern`` means, as PEFT matches them.

PEFT's ``get_pattern_key`` takes the first key that ``re`` finds at the end of a module's name, and the
name itself if there is none. The expressions come with an adapter, and one of nested repetitions can be
matched for hours; all but plain ones are matched by a process of its own, which is stopped in time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar

from bench.errors import ConfigError

__all__ = ["expression_fault", "values_of"]

Value = TypeVar("Value")

_SECONDS = 10.0
# Repetitions that are matched in this process: each multiplies the steps by the length of a name.
_MAX_REPEATS, _MAX_MATCHES = 2, 1_000_000
_FIRST = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
expressions, names = json.load(sys.stdin)
compiled = [re.compile(e) for e in expressions]
json.dump([next((i for i, e in enumerate(compiled) if e.match(n)), None) for n in names], sys.stdout)
"""


def expression_fault(key: str) -> str | None:
    """Why a key is no regular expression, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(_ending(key))
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return None


def values_of(
    patterns: Mapping[str, Value] | None, names: Sequence[str], otherwise: Value
) -> list[Value]:
    """The value that PEFT takes for every module.

    Args:
        patterns: values by regular expression over the ends of names.
        names: modules.
        otherwise: the value of a module that no expression matches.

    Raises:
        ConfigError: matching takes longer than ten seconds.
    """
    if not patterns:
        return [otherwise] * len(names)
    keys = list(patterns)
    few = len(keys) * len(names) <= _MAX_MATCHES
    find = _first_here if few and all(map(_is_plain, keys)) else _first_apart
    return [
        patterns.get(name, otherwise) if place is None else patterns[keys[place]]
        for name, place in zip(names, find([_ending(key) for key in keys], names), strict=True)
    ]


def _ending(key: str) -> str:
    """PEFT's expression for a module whose name ends with ``key``."""
    return rf"(.*\.)?({key})$"


def _is_plain(key: str) -> bool:
    plain = re.sub(r"\\.", "", key)
    return len(re.findall(r"[*+{]", plain)) <= _MAX_REPEATS and not re.search(r"\)[*+{]", plain)


def _first_here(expressions: Sequence[str], names: Sequence[str]) -> list[int | None]:
    compiled = [re.compile(expression) for expression in expressions]
    return [next((i for i, e in enumerate(compiled) if e.match(name)), None) for name in names]


def _first_apart(expressions: Sequence[str], names: Sequence[str]) -> list[int | None]:
    try:
        done = subprocess.run(  # noqa: S603 - the running interpreter and the text above
            [sys.executable, "-I", "-S", "-c", _FIRST],
            input=json.dumps([expressions, names]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"its regular expressions are matched for more than {_SECONDS:g} s; nested repetitions may "
            "take hours. Write them without a repetition inside of another."
        ) from None
    found: list[int | None] = json.loads(done.stdout)
    return found
