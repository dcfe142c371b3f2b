"""What a table calls a text encoder that stands in for another."""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["substitute_note"]

_SHORT = {"all-minilm-l6-v2": "MiniLM"}


def substitute_note(encoder: str, official: str) -> str:
    """Short name of an encoder, or "" if it is the one that a method's authors used.

    Args:
        encoder: name as configured.
        official: the authors' encoder.
    """
    return "" if encoder == official else _SHORT.get(encoder, PurePath(encoder).name)
