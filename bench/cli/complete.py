"""Names that a shell completes: methods and domains, also the last of several behind commas."""

from __future__ import annotations

__all__ = ["domain_names", "method_names"]


def method_names(incomplete: str) -> list[str]:
    """Methods whose name goes on like what was typed."""
    from bench.methods import registry

    return _last(incomplete, registry.names())


def domain_names(incomplete: str) -> list[str]:
    """Domains, likewise."""
    from bench.data.load import known_names

    return _last(incomplete, known_names())


def _last(incomplete: str, names: list[str] | tuple[str, ...]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
