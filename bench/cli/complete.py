"""Names that a shell completes and that a help lists, looked up only then."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["ListsNames", "domain_names", "merger_names", "method_names", "reader_names"]


class ListsNames(TyperCommand):
    """A verb whose help lists the names of a registry: ``{mergers}`` in the help of an option."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill in the names, those of plugins too."""
        from bench.registry import KINDS, registry_of

        for option in self.params:
            text = getattr(option, "help", None) or ""
            for kinds in KINDS:
                if f"{{{kinds}}}" in text:
                    text = text.replace(f"{{{kinds}}}", ", ".join(registry_of(kinds)))
            if text:
                option.help = text  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def method_names(incomplete: str) -> list[str]:
    """Methods whose name goes on like what was typed, also the last of several behind commas."""
    from bench.methods import registry

    return _last(incomplete, registry.names())


def merger_names(incomplete: str) -> list[str]:
    """Mergers, likewise."""
    from bench.merging.registry import MERGERS

    return _last(incomplete, MERGERS.names())


def reader_names(incomplete: str) -> list[str]:
    """Readers of files, likewise."""
    from bench.data.readers import READERS

    return _last(incomplete, READERS.names())


def domain_names(incomplete: str) -> list[str]:
    """Domains, likewise."""
    from bench.data.load import known_names

    return _last(incomplete, known_names())


def _last(incomplete: str, names: list[str] | tuple[str, ...]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
