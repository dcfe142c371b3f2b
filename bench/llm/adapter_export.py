"""An adapter as a folder for other machines: a plain PEFT folder with a card, and nothing private.

What leaves is chosen name by name: configuration, weights, the recipe, costs, hashes. No title, no user
id and no path of this machine is in any of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from bench.assets import ASSETS
from bench.errors import ConfigError
from bench.io import atomic_folder, read_json, sha256_file, write_json, write_text
from bench.llm.adapter_files import CONFIG, METADATA, WEIGHTS, StoredAdapter, check_files

__all__ = ["card", "export_adapter"]

CARD = "README.md"

_SHARED = ("format", "adapter_id", "kind", "label", "lineage", "cost", "packages", "created")
_HASHES = ("base_hash", "init_hash")


def export_adapter(adapter: StoredAdapter, destination: Path) -> Path:
    """Copy an adapter into a new folder that PEFT and vLLM load as it is.

    Args:
        adapter: what to export; its files are compared with their hashes first.
        destination: the folder to make; it may exist if it is empty.

    Returns:
        The destination.

    Raises:
        ConfigError: the destination is a file, or holds something.
        ResultError: the adapter is damaged.
    """
    check_files(adapter)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(
            f"{destination} exists and is no empty folder; name another one for the adapter."
        )
    with atomic_folder(destination, replace=True) as folder:
        shutil.copyfile(adapter.folder / WEIGHTS, folder / WEIGHTS)
        config = dict(read_json(adapter.folder / CONFIG))
        config["base_model_name_or_path"] = _backbone(adapter) or _public_name(
            str(config.get("base_model_name_or_path") or "")
        )
        write_json(folder / CONFIG, config)
        write_json(folder / METADATA, _public(adapter, folder))
        write_text(folder / CARD, card(adapter))
    return destination


def _public(adapter: StoredAdapter, folder: Path) -> dict[str, Any]:
    recipe = dict(adapter.metadata["recipe"])
    if "backbone" in recipe:
        recipe["backbone"] = _backbone(adapter)
    if "template" in recipe:
        recipe["template"] = _public_name(str(recipe["template"]))
    return {
        **{key: adapter.metadata[key] for key in _SHARED if key in adapter.metadata},
        **{key: adapter.metadata.get(key) for key in _HASHES},
        "recipe": recipe,
        "report": _numbers(adapter.metadata.get("report", {})),
        "origin": _numbers(adapter.metadata.get("origin", {})),
        "files": {name: sha256_file(folder / name) for name in (CONFIG, WEIGHTS)},
    }


def _numbers(report: Any) -> Any:
    """Numbers, lists and mappings of numbers of a report: free text could hold anything."""
    if isinstance(report, Mapping):
        kept = {str(key): _numbers(value) for key, value in report.items()}
        return {key: value for key, value in kept.items() if value is not None}
    if isinstance(report, list):
        kept_items = [_numbers(value) for value in report]
        return [value for value in kept_items if value is not None]
    return report if isinstance(report, bool | int | float) else None


def _public_name(name: str) -> str:
    """A name or Hugging Face id as it is; of a path of this machine, the last part."""
    path = PurePath(name)
    is_path = (
        path.is_absolute() or name.startswith((".", "~")) or "\\" in name or len(path.parts) > 2
    )
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else name


def _backbone(adapter: StoredAdapter) -> str:
    return _public_name(str(adapter.metadata["recipe"].get("backbone") or ""))


def card(adapter: StoredAdapter) -> str:
    """The model card: what the adapter is, what it was trained on, what it cost, who may use it."""
    recipe, cost = adapter.metadata["recipe"], adapter.metadata["cost"]
    backbone = _backbone(adapter) or "unknown"
    lines = [
        "---",
        f"base_model: {_yaml(backbone)}",
        "library_name: peft",
        "tags: [lora, recommendation, weavebench]",
        "---",
        "",
        f"# LoRA adapter {adapter.adapter_id}",
        "",
        f"{_text(adapter.label)} ({adapter.kind}), made by weavebench.",
        "",
        "| | |",
        "|---|---|",
        f"| backbone | {_text(backbone)}, content `{adapter.metadata.get('base_hash')}` |",
    ]
    if adapter.metadata.get("init_hash"):
        lines.append(f"| initialisation | `{adapter.metadata['init_hash']}` |")
    lines += [
        f"| {key.replace('_', ' ')} | {_text(_value(recipe[key]))} |"
        for key in (
            *("objective", "label", "template_hash", "text", "lora", "training", "dtype"),
            *("init_seed", "order_seed", "negatives_seed", "trainer_version"),
            *("method", "parameters", "merger_version"),
        )
        if recipe.get(key) not in (None, "", {})
    ]
    lines.append(
        f"| cost | {cost['seconds']:,.0f} s wall, {cost['cpu_seconds']:,.0f} s CPU, "
        f"{cost['tokens']:,} tokens |"
    )
    lines += _mixture(recipe) + _lineage(adapter) + _licences(recipe, backbone)
    return "\n".join(lines) + "\n"


def _mixture(recipe: Mapping[str, Any]) -> list[str]:
    parts = recipe.get("mixture") or []
    if not parts:
        return []
    return [
        "",
        "## Data",
        "",
        "| domain | examples | SHA-256 of its training data |",
        "|---|---|---|",
        *(
            f"| {_text(part['domain'])} | {part['n_examples']:,} | `{part['training_hash']}` |"
            for part in parts
        ),
    ]


def _lineage(adapter: StoredAdapter) -> list[str]:
    if not adapter.metadata["lineage"]:
        return []
    return [
        "",
        "## Merged from",
        "",
        *(f"- `{use['adapter_id']}` {_text(use['label'])}" for use in adapter.metadata["lineage"]),
    ]


def _licences(recipe: Mapping[str, Any], backbone: str) -> list[str]:
    known = ASSETS.get(str(recipe.get("backbone")))
    terms = f"{known.licence} (backbone)" if known is not None else f"the licence of {backbone}"
    return [
        "",
        "## Licence",
        "",
        f"The weights derive from the backbone and from the data named above. {_text(terms)} applies, and "
        "so do the terms of every data set; check them before you use or share this adapter. It holds "
        "no title, no user id and no interaction as such.",
    ]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(one)}" for key, one in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return str(value)


def _text(text: str) -> str:
    """Text inside a Markdown table: one line, no cell border, no HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|")


def _yaml(text: str) -> str:
    """A double-quoted YAML scalar."""
    kept = "".join(c for c in text if c.isprintable())
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'
