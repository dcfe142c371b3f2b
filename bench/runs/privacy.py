"""What must not stand in a published result: paths of a machine, reviewer ids, e-mail addresses, logins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["apart_from_files", "base_name", "private_values", "texts", "without_paths"]

_PATH = "a path of a machine"
_SUFFIX = (
    r"\.(?:py|json|jsonl|csv|tsv|txt|log|pt|pth|bin|ckpt|safetensors|gguf|onnx|npy|npz|h5|ya?ml|parquet|pkl"
    r"|zip|gz)"
)
_HOME = r"(?:~(?:[A-Za-z_][\w-]*)?|\$[A-Za-z_]\w*|\$\{\w+\}|%\w+%)"
_KINDS = (
    # Amazon's reviewer ids are an A and 10 to 20 capitals and digits; hashes here are lower case.
    ("a reviewer id", re.compile(r"\bA(?=[A-Z]*[0-9])[0-9A-Z]{10,20}\b")),
    ("a login", re.compile(r"://[^/\s@]+@")),
    ("an e-mail address", re.compile(r"[\w.+-]+@[\w-]+\.\w{2,}")),
    (_PATH, re.compile(r"(?<![\w.:/\\<])/(?:[\w.@+~-]+/[\w.@+~-]|(?:home|root|Users|mnt|tmp)/)")),
    (_PATH, re.compile(r"(?<!\w)[A-Za-z]:(?:\\{1,2}|/)[\w.$~-]")),
    (_PATH, re.compile(r"(?<![\w\\:])\\{2,4}[\w.$-]+\\{1,2}[\w$]|(?<![\w:/\\.])//[\w.-]+/\w")),
    (_PATH, re.compile(rf"(?<![\w.\\/$%~])(?:\.{{1,2}}|{_HOME})(?:/|\\{{1,2}})[\w.]")),
    (_PATH, re.compile(rf"[\w~-]+[\\/][\w.~\\/-]*{_SUFFIX}\b")),
    # Of a folder, a bucket or a share; the address of a page is public.
    (_PATH, re.compile(r"(?i)\bfile:[\\/]|(?<![\w+.-])(?!https?://)[a-z][\w+.-]*://\S")),
)
_PAGE = re.compile(r"(?:https?|hf)://[^\s@]+(?=\s|$)")
_BEGIN = re.compile(rf"(?:\.{{1,2}}|{_HOME}|[A-Za-z]:)[\\/]")
_FILE = re.compile(rf"{_SUFFIX}(?::\w+)?$")


def base_name(path: str) -> str:
    """The last part of a path of any system, without the folders of a machine."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def private_values(record: Any, *, here: bool = False) -> Iterator[tuple[str, str, str]]:
    """Field, wording and kind of whatever looks private in the keys and texts of a JSON record.

    Args:
        record: a manifest, or any other JSON value.
        here: whether ``owner/name``, the form of an identifier of a hub, is a path too if it leads to
            something on this machine.
    """
    for field, text in texts("", record):
        if _is_path(text, here):
            yield field, text, _PATH
            continue
        searched = _PAGE.sub("", text)
        for what, pattern in _KINDS:
            if match := pattern.search(searched):
                yield field, match.group(), what


def without_paths(value: Any, known: Mapping[str, str] | None = None, *, here: bool = False) -> Any:
    """The same JSON value with every text or key that is a path cut to its last part, for sharing.

    Args:
        value: any JSON value.
        known: texts that are replaced wherever they occur, with what replaces them.
        here: as in :func:`private_values`.
    """
    if isinstance(value, Mapping):
        cut: dict[str, Any] = {}
        for key, inner in value.items():
            name = without_paths(key, known, here=here)
            names = (name, *(f"{name} ({n})" for n in range(2, len(value) + 1)))
            cut[next(n for n in names if n not in cut)] = without_paths(inner, known, here=here)
        return cut
    if isinstance(value, list):
        return [without_paths(inner, known, here=here) for inner in value]
    if isinstance(value, str):
        for old, new in (known or {}).items():
            value = value.replace(old, new)
        return base_name(value) if _is_path(value, here) else value
    return value


def apart_from_files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the names and hashes of the run's own files."""
    sets = {
        key: {name: value for name, value in one.items() if name != "file"}
        for key, one in (manifest.get("sets") or {}).items()
    }
    return {k: v for k, v in manifest.items() if k not in ("files", "seal")} | {"sets": sets}


def texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Texts of a JSON value by their field, which ``field`` begins; keys included."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"a key of {field}" if field else "a key", key
            yield from texts(f"{field}.{key}" if field else key, inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from texts(f"{field}[{i}]", inner)


def _is_path(text: str, here: bool) -> bool:
    separators = len(re.findall(r"[\\/]", text))
    if not separators or "\n" in text or re.match(r"(?:https?|hf)://", text):
        return False
    named = re.search(r"[A-Za-z]", text) is not None
    spaced = re.search(r"\s", text) is not None
    whole = separators > 1 and named and (text[0] in "/\\" or not spaced)
    windows = not spaced and re.search(r"\w\\\w", text) is not None
    return (
        whole
        or windows
        or bool(_BEGIN.match(text) or _FILE.search(text))
        or (here and named and _leads_somewhere(text))
    )


def _leads_somewhere(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a zero byte: no path
        return False
