"""The exception tree: one root, one class per cause.

::

    BenchError                 anything this package raises on purpose
    |-- ConfigError            wrong use: an unknown name, option or value          (exit code 2)
    |-- MissingExtraError      an optional package or asset is not installed       (exit code 2)
    |-- DataError              a raw file or a domain is not as expected
    |   `-- MissingDataError   a known domain is not on this machine               (exit code 2)
    |-- ProtocolError          a task, a candidate set or a request cannot be built
    |-- MethodError            a method broke its contract or failed
    `-- ResultError            a stored run is damaged, in use or not comparable
        |-- MissingRunError    no stored run, or several, of the name given        (exit code 2)
        |-- InUseError         another process works on what is needed, for too long
        |-- RunGoneError       a run was removed or replaced while it was read
        `-- MissingAdapterError  no stored adapter, or several, likewise           (exit code 2)

A message has three parts: what was found and where, what was expected, what to do next.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping

__all__ = [
    "EXTRAS",
    "BenchError",
    "ConfigError",
    "DataError",
    "InUseError",
    "MethodError",
    "MissingAdapterError",
    "MissingDataError",
    "MissingExtraError",
    "MissingRunError",
    "ProtocolError",
    "ResultError",
    "RunGoneError",
    "cause",
    "did_you_mean",
    "missing_package",
    "require_packages",
    "system_error",
    "unknown_name",
]


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "models": (
        "safetensors", "torch",
        "colorama", "colorlog", "pandas", "sklearn", "tensorboard", "texttable", "tqdm",
    ),
    "llm": ("accelerate", "gguf", "huggingface_hub", "jinja2", "peft", "tokenizers", "transformers"),
    "plot": ("matplotlib",),
    "vllm": ("vllm",),
}  # fmt: skip
"""Extra of this package -> what it adds to those before it, as imports name it; as in pyproject.toml."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class BenchError(Exception):
    """Root of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(BenchError):
    """Wrong use: an unknown name, an unknown option or a value out of range."""

    exit_code = 2


class MissingExtraError(BenchError):
    """An optional package or asset is needed and absent; the message names the command."""

    exit_code = 2


class DataError(BenchError):
    """A raw file or a domain is not as expected; the message names file, line and field."""


class MissingDataError(DataError):
    """A known domain is not on this machine; the message names the ways to get it."""

    exit_code = 2


class ProtocolError(BenchError):
    """A task, a candidate set or a request set cannot be built as asked."""


class MethodError(BenchError):
    """A method broke its contract, or failed while fitting or scoring."""


class ResultError(BenchError):
    """A stored run is missing, damaged, locked or not comparable with another."""


class InUseError(ResultError):
    """Another process works on what is needed, for longer than this one was to wait."""


class MissingRunError(ResultError):
    """No stored run has the name that was given, or several have; the message names near ones."""

    exit_code = 2


class RunGoneError(ResultError):
    """Another process removed or replaced a stored run while it was read: it is gone, not damaged."""


class MissingAdapterError(ResultError):
    """No stored adapter has the name that was given, or several have; the message names near ones."""

    exit_code = 2


def system_error(error: BaseException) -> OSError | None:
    """The error of the system that an exception is, or that its text reports; None if there is none.

    Libraries written in Rust (polars, safetensors) have exceptions of their own for a full disk, or an
    OSError without a number, and name the system's error in their text only.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    found = None if isinstance(error, BenchError) else _OS_ERROR.search(str(error))
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'a', 'b'?`` with the nearest known names, or nothing; case does not matter."""
    names = sorted(set(known))
    folded = [candidate.casefold() for candidate in names]
    close = difflib.get_close_matches(name.casefold(), dict.fromkeys(folded), n=3, cutoff=0.5)
    found = [names[i] for match in close for i, one in enumerate(folded) if one == match]
    return f" Did you mean {', '.join(map(repr, found))}?" if found else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for an unknown name, with the nearest known ones.

    Args:
        kind: what was looked up, for example ``"method"``.
        name: what the user typed.
        known: every accepted name.

    Returns:
        A :class:`ConfigError` to raise; it lists at most 40 names.
    """
    names = sorted(set(known))
    hint = did_you_mean(name, names)
    listed = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return ConfigError(f"unknown {kind} {name!r}.{hint} Known: {listed or 'none'}.")


def missing_package(error: ImportError) -> MissingExtraError | None:
    """The error to raise instead if an installed package is what an import lacks.

    Returns:
        An error that names the package and the way to get it; None if the import that failed is of
        this package itself, or nameless.
    """
    package = _absent(error)
    if package is None:
        return None
    return MissingExtraError(
        f"this needs the Python package {package}, which cannot be imported ({error}). Install it with: "
        f"pip install {_source(package)} (docs/install.md)."
    )


def cause(error: BaseException) -> str:
    """``Type: text`` of what foreign code raised, with the command if it lacks a package of an extra."""
    package = _absent(error)
    brought = any(package in packages for packages in EXTRAS.values())
    hint = f" (pip install {_source(package)})" if package and brought else ""
    return f"{type(error).__name__}: {error}{hint}"


def require_packages(who: str, *packages: str) -> None:
    """Refuse what needs absent packages before anything is read; imports none of them.

    Args:
        who: what needs them, in the plural: ``language models``.
        packages: names as imports have them.

    Raises:
        MissingExtraError: the message names the packages and the extra that brings them.
    """
    # A mere folder of that name on the path has no origin.
    found = {name: importlib.util.find_spec(name) for name in packages}
    missing = [name for name, spec in found.items() if spec is None or spec.origin is None]
    if missing:
        raise MissingExtraError(
            f"{who} need {', '.join(packages)}; not installed: {', '.join(missing)}. Install with: "
            f"pip install {_source(missing[-1])} (docs/install.md)."
        )


def _absent(error: BaseException) -> str | None:
    """The package that an import lacks; None if it is this one, nameless, or the error another."""
    name = error.name if isinstance(error, ImportError) else None
    package = (name or "").partition(".")[0]
    return None if package in ("", "bench") else package


def _source(package: str) -> str:
    for extra, packages in EXTRAS.items():
        if package in packages:
            more = (
                ", or 'weavebench[llm]' for methods that read texts" if package == "torch" else ""
            )
            return f"'weavebench[{extra}]'{more}"
    return package.replace("_", "-")
