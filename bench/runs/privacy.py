"""What must not stand in a published result: paths of a machine, reviewer ids, e-mail addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["private_settings", "private_text"]

# Amazon's reviewer ids are an A and 10 to 20 capitals and digits; hashes here are lower case.
_REVIEWER = re.compile(r"\bA(?=[A-Z]*[0-9])[0-9A-Z]{10,20}\b")
_ABSOLUTE = re.compile(
    r"(?<![\w.:/])(?:/(?:home|root|Users|mnt|tmp|work|data|scratch)/|[A-Z]:\\|file:///)"
)
_RELATIVE = re.compile(r"(?<![\w.\\/])(?:\.{1,2}|~\w*)(?:/|\\\\?)[\w.]")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w{2,}")

_BEGIN = re.compile(r"(?:\.{1,2}|~\w*|[A-Za-z]:)[\\/]")
_FILE = re.compile(
    r"\.(?:py|json|jsonl|csv|tsv|txt|pt|pth|bin|ckpt|safetensors|gguf|onnx|npy|npz|h5|ya?ml|parquet|pkl"
    r"|zip|gz)(?::\w+)?$"
)


def private_text(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, kind and wording of whatever looks private in a file's text; the first of each kind."""
    for what, pattern in (
        ("a reviewer id", _REVIEWER),
        ("a path of a machine", _ABSOLUTE),
        ("a path of a machine", _RELATIVE),
        ("an e-mail address", _EMAIL),
    ):
        match = pattern.search(text)
        if match:
            yield text.count("\n", 0, match.start()) + 1, what, match.group()


def private_settings(
    manifest: Mapping[str, Any], *, here: bool = False
) -> Iterator[tuple[str, str]]:
    """Field and value of every setting of a run that is a path with folders.

    Args:
        manifest: of the run.
        here: whether ``owner/name``, the form of an identifier of a hub, is a path too if it leads to
            something on this machine.
    """
    spec = manifest.get("spec") or {}
    for field, value in (
        ("method.requested_as", manifest["method"].get("requested_as")),
        ("spec.method", spec.get("method")),
        ("config", manifest.get("config")),
        ("spec.overrides", spec.get("overrides")),
    ):
        for name, text in _texts(field, value):
            if _is_path(text) or (here and _leads_somewhere(text)):
                yield name, text


def _texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(f"{field}.{key}", inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _texts(f"{field}[{i}]", inner)


def _is_path(text: str) -> bool:
    separators = len(re.findall(r"[\\/]", text))
    if not separators or "\n" in text or re.match(r"https?://", text):
        return False
    whole = separators > 1 and (text[0] in "/\\" or not re.search(r"\s", text))
    return whole or bool(_BEGIN.match(text) or _FILE.search(text))


def _leads_somewhere(text: str) -> bool:
    try:
        return bool(re.search(r"[\\/]", text)) and Path(text).exists()
    except (OSError, ValueError):  # too long, or with a zero byte: no path
        return False
