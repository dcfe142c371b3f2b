"""From the texts of ``bench run`` to values: pure parsing, no domain, method or run is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bench.cli.output import split_names
from bench.errors import ConfigError, unknown_name

__all__ = [
    "parse_integers",
    "parse_limit",
    "parse_names",
    "parse_run_limit",
    "parse_sources",
    "parse_users",
    "split_overrides",
]


def parse_names(option: str, text: str) -> tuple[str, ...]:
    """Comma-separated names, at least one.

    Raises:
        ConfigError: the text holds no name.
    """
    names = split_names(text)
    if not names:
        raise ConfigError(f"{option} {text!r}: expected one name or several, separated by commas.")
    return names


def parse_integers(option: str, text: str) -> tuple[int, ...]:
    """Comma-separated integers >= 0, for example ``0,1,2``.

    Raises:
        ConfigError: a part is no integer, or negative.
    """
    values = []
    for part in parse_names(option, text):
        if not _is_integer(part):
            raise ConfigError(
                f"{option} {text!r}: {part!r} is no integer >= 0; for example {option} 0,1,2."
            )
        values.append(int(part))
    return tuple(dict.fromkeys(values))


def _is_integer(text: str) -> bool:
    """Whether the text is an integer >= 0 of at most 18 digits, so that 64 bits hold it."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def split_overrides(
    overrides: Mapping[str, Any], methods: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Values for every method, and by method those of keys like ``sasrec:epochs``.

    Raises:
        ConfigError: a key names a method that does not run.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        method, colon, key = name.rpartition(":")
        if not colon:
            common[name] = value
        elif method in methods and key:
            own.setdefault(method, {})[key] = value
        else:
            raise unknown_name(f"method in --set {name}", method, methods)
    return common, own


def parse_sources(text: str | None) -> tuple[str, ...] | None:
    """``--sources``: None and ``all`` mean the rest of the study group, ``none`` no source."""
    if text is None or text == "all":
        return None
    return () if text == "none" else parse_names("--sources", text)


def parse_limit(text: str) -> int | None:
    """``--limit-users``: a number of users >= 1, or None for ``all``.

    Raises:
        ConfigError: neither.
    """
    if text == "all":
        return None
    if not _is_integer(text) or int(text) < 1:
        raise ConfigError(f"--limit-users {text!r}: expected 'all' or a number of users >= 1.")
    return int(text)


def parse_run_limit(text: str) -> int | Literal["auto"] | None:
    """``--limit-users`` of ``bench run``: as :func:`parse_limit`, or ``auto``, the method's default.

    Raises:
        ConfigError: none of these.
    """
    if text == "auto":
        return "auto"
    try:
        return parse_limit(text)
    except ConfigError as error:
        raise ConfigError(
            f"--limit-users {text!r}: expected 'auto' (the method's default), 'all' or a number of "
            "users >= 1."
        ) from error


def parse_users(text: str) -> int | None:
    """``--users``: a number of users >= 1, or None for ``full``.

    Raises:
        ConfigError: neither.
    """
    if text == "full":
        return None
    if not _is_integer(text) or int(text) < 1:
        raise ConfigError(f"--users {text!r}: expected 'full' or a number of users >= 1.")
    return int(text)
