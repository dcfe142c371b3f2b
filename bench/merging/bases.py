"""Whether two adapters were trained on one base model: by content if that is known, else by name."""

from __future__ import annotations

from pathlib import Path

from bench.io import sha256_file
from bench.merging.adapter import AdapterConfig

__all__ = ["canonical_name", "same_base"]

_CONTENT = ("*.json", "*.safetensors", "*.bin", "*.gguf")
"""Files of a model's folder that decide what it computes."""


def same_base(one: AdapterConfig, two: AdapterConfig) -> bool:
    """Whether nothing that is known speaks against one base.

    Content hashes decide, if both adapters have one. Otherwise names that differ must mean the same
    folder or the same repository, or be folders with the same files; revisions must not differ.
    """
    if one.base_hash and two.base_hash:
        return one.base_hash == two.base_hash
    if len({one.peft.get("revision"), two.peft.get("revision")} - {None}) > 1:
        return False
    if not one.base_model or not two.base_model:
        return True
    first, second = canonical_name(one.base_model), canonical_name(two.base_model)
    return first == second or _same_files(Path(first), Path(second))


def canonical_name(name: str) -> str:
    """One spelling for all names of a model.

    A folder of this machine is its path without links; a name of a hub has its owner, in which the
    hub tells no cases, in lower case. Trailing slashes mean nothing.
    """
    plain = name.strip().rstrip("/\\") or name
    try:
        if Path(plain).is_dir():
            return str(Path(plain).resolve())
    except (OSError, ValueError):  # no file name at all
        return plain
    owner, slash, model = plain.partition("/")
    return f"{owner.lower()}/{model}" if slash and owner and "/" not in model else plain


def _same_files(one: Path, two: Path) -> bool:
    """Whether two folders hold the same model, weights included; sizes are compared first."""
    if not (one.is_absolute() and two.is_absolute() and one.is_dir() and two.is_dir()):
        return False
    listed = [
        {path.name: path for pattern in _CONTENT for path in folder.glob(pattern)}
        for folder in (one, two)
    ]
    first, second = listed
    if not first or first.keys() != second.keys():
        return False
    if any(path.stat().st_size != second[name].stat().st_size for name, path in first.items()):
        return False
    return all(sha256_file(path) == sha256_file(second[name]) for name, path in first.items())
