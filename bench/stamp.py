"""What is written beside a result: when, with which versions, and how long it took."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Iterable
from datetime import UTC, datetime

__all__ = ["duration", "package_versions", "utc_now"]


def utc_now() -> str:
    """The time as ISO 8601 in UTC, whole seconds, for example ``2025-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def package_versions(own_version: str, names: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of this package, and of those of ``names`` that are installed."""
    own = {"python": platform.python_version(), "weavebench": own_version}
    found = {name: _version(name) for name in names}
    return own | {name: version for name, version in found.items() if version is not None}


@functools.cache  # parsing the metadata of a dozen packages takes longer than some runs
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def duration(seconds: float, *, digits: int = 0) -> str:
    """Seconds for people: ``45 s`` (``45.2 s`` with one digit), ``3 min 20 s`` or ``2 h 05 min``."""
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
