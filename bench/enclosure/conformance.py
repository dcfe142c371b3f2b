"""Which plugins passed the conformance kit, as they are now, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bench import __version__
from bench.errors import ResultError
from bench.io import cache_root, hash_json, read_json, write_json
from bench.methods import Method
from bench.methods.config import config_dict
from bench.methods.registry import source_sha256
from bench.stamp import utc_now

__all__ = ["Conformance", "conformance", "record_conformance"]

Conformance = Literal["passed", "failed", "not checked"]


def record_conformance(method_cls: type[Method], config: Any, failed: Sequence[str]) -> None:
    """Keep the outcome of all checks of a plugin; nothing for methods of this package.

    Args:
        method_cls: the checked class.
        config: the checked configuration.
        failed: ids of the checks that it failed.
    """
    path = _record(method_cls, config)
    if path is not None:
        checked = utc_now()
        write_json(path, {"method": method_cls.name, "failed": list(failed), "checked": checked})


def conformance(method_cls: type[Method], config: Any) -> Conformance | None:
    """What the kit said of this source, configuration and package version; None for this package's own."""
    path = _record(method_cls, config)
    if path is None:
        return None
    try:
        return "failed" if read_json(path)["failed"] else "passed"
    except (ResultError, KeyError, TypeError):
        return "not checked"


def _record(method_cls: type[Method], config: Any) -> Path | None:
    source = source_sha256(method_cls)
    if source is None:
        return None
    key = {
        "source": source,
        "class": method_cls.__qualname__,
        "config": config_dict(config),
        "package": __version__,
    }
    return cache_root() / "conformance" / f"{hash_json(key)[:32]}.json"
