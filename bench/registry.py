"""Names of what anybody may add: one table per kind, from names to objects that are imported on use.

Methods, mergers, engines, readers, metrics and poolings are each a :class:`Registry`. A name leads to

* a built-in: one line in the table of its kind;
* what an installed package announces in the entry-point group ``weavebench.<kind>s``;
* what a process registers for itself.

Listing names imports nothing. A plugin that cannot be imported is reported and breaks nothing but
itself.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from bench.errors import (
    BenchError,
    ConfigError,
    MethodError,
    cause,
    did_you_mean,
    missing_package,
    unknown_name,
)
from bench.io import canonical_json
from bench.names import METHOD_NAME

__all__ = [
    "BUILT_IN",
    "KINDS",
    "Named",
    "Problem",
    "Registry",
    "all_problems",
    "import_target",
    "module_sha256",
    "plugin_packages",
    "registry_of",
]

T = TypeVar("T")

KINDS: Mapping[str, str] = {
    "methods": "bench.methods.registry:METHODS",
    "mergers": "bench.merging.registry:MERGERS",
    "engines": "bench.llm.engines:ENGINES",
    "readers": "bench.data.readers:READERS",
    "metrics": "bench.evaluation.metrics:METRIC_KINDS",
    "poolings": "bench.baselines.text.encoders:POOLINGS",
}
"""Every registry, by the last part of its entry-point group."""

_PREFIX = "weavebench."
BUILT_IN = "built-in"
_REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class Problem:
    """A plugin that cannot be used, for listings and ``bench doctor``.

    Attributes:
        name: the announced name.
        origin: which package announced it.
        reason: what is wrong and what to do.
    """

    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Entry:
    origin: str
    target: str
    load: Callable[[], Any]


class Registry(Generic[T]):
    """A table from names to objects of one kind, each imported on its first use.

    Args:
        kind: what a name means, in the singular: ``merger``; plugins announce theirs in the
            entry-point group ``weavebench.mergers``.
        built_ins: name -> ``module:object``.
        reserved: a prefix that no name may have, with another meaning of its own.
        discover: returns the entry points of plugins, None = those of the group; given in tests.
    """

    def __init__(
        self,
        kind: str,
        built_ins: Mapping[str, str],
        *,
        reserved: str | None = None,
        discover: Callable[[], Iterable[EntryPoint]] | None = None,
    ) -> None:
        self.kind = kind
        self.group = f"{_PREFIX}{kind}s"
        self._entries: dict[str, _Entry] = {}
        self._problems: list[Problem] = []
        self._reserved = reserved
        self._derived: list[tuple[Registry[Any], Callable[[str], str], str]] = []
        self._discover: Callable[[], Iterable[EntryPoint]] | None = discover or (
            lambda: entry_points(group=self.group)
        )
        for name, target in built_ins.items():
            self._add(name, _Entry(BUILT_IN, target, partial(import_target, target)))

    def register(self, name: str, target: str | T, *, origin: str = _REGISTERED) -> None:
        """Add an object, or ``module:object``; the same pair twice is no error.

        Raises:
            ConfigError: the name is malformed, or means something else already.
        """
        if isinstance(target, str):
            self._add(name, _Entry(origin, target, partial(import_target, target)))
        else:
            named = target if hasattr(target, "__qualname__") else type(target)
            label = f"{named.__module__}:{getattr(named, '__qualname__', name)}"
            self._add(name, _Entry(origin, label, lambda: target))

    def derive(self, source: Registry[Any], name_of: Callable[[str], str], maker: str) -> None:
        """Add one name for each name of another registry.

        Args:
            source: the other registry.
            name_of: from its names to those of this one.
            maker: ``module:function`` that makes the object from the name in ``source``.
        """
        self._derived.append((source, name_of, maker))

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted(self._found())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._found()

    def __len__(self) -> int:
        return len(self._found())

    def problems(self) -> tuple[Problem, ...]:
        """Plugins that could not be registered (a name that is taken or malformed)."""
        self._found()
        return tuple(self._problems)

    def origin(self, name: str) -> str:
        """Where a name comes from: ``built-in``, ``package NAME VERSION`` or ``registered``."""
        return self._entry(name).origin

    def target(self, name: str) -> str:
        """What a name leads to: ``module:object``."""
        return self._entry(name).target

    def module(self, name: str) -> str:
        """The module that a name leads to."""
        return self.target(name).partition(":")[0]

    def source_sha256(self, name: str) -> str | None:
        """Identity of the source code behind a name; None for what this package ships.

        Raises:
            ConfigError: unknown name.
            MethodError: its source is on no disk.
        """
        if self.origin(name) == BUILT_IN:
            return None
        self.load(name)
        return module_sha256(self.module(name), f"{self.kind} {name!r}")

    def require(self, name: str, *also: str) -> None:
        """Refuse an unknown name, with suggestions.

        Args:
            name: what the user typed.
            also: further names that the message offers.

        Raises:
            ConfigError: the name is not in the table.
        """
        if name not in self:
            raise unknown_name(self.kind, name, [*self, *also])

    def load(self, name: str) -> T:
        """Import what a name leads to, unchecked.

        Raises:
            ConfigError: unknown name, with suggestions.
            MethodError: a plugin could not be imported.
        """
        entry = self._entry(name)
        try:
            found: T = entry.load()
        except BenchError:
            raise
        except (Exception, SystemExit) as error:
            if entry.origin == BUILT_IN:
                raise
            raise MethodError(
                f"{self.kind} {name!r} ({entry.origin}, {entry.target}) cannot be imported: "
                f"{cause(error)}. Repair or uninstall that package."
            ) from error
        return found

    def _entry(self, name: str) -> _Entry:
        self.require(name)
        return self._entries[name]

    def _add(self, name: str, entry: _Entry) -> None:
        if not METHOD_NAME.fullmatch(name):
            raise ConfigError(
                f"{self.kind} name {name!r} ({entry.target}): expected letters, digits and "
                ". _ : + -, beginning with a letter or digit."
            )
        if self._reserved and name.startswith(self._reserved):
            raise ConfigError(
                f"{self.kind} name {name!r}: the prefix {self._reserved!r} is reserved."
            )
        known = self._entries.get(name)
        if known is not None and known.target != entry.target:
            raise ConfigError(
                f"{self.kind} name {name!r} of {entry.target} ({entry.origin}) is taken by "
                f"{known.target} ({known.origin}). Give one of them another name."
            )
        # What is defined anew, as by a reloaded module, takes the place of the old one.
        if known is None or known.origin == entry.origin == _REGISTERED:
            self._entries[name] = entry

    def _found(self) -> Mapping[str, _Entry]:
        """All entries, those of plugins too, which are looked for once."""
        if self._discover is not None:
            discover, self._discover = self._discover, None
            for point in sorted(discover(), key=lambda p: (p.name, p.value)):
                self._offer(point.name, _Entry(_package(point), point.value, point.load))
        # Another registry may have got names since.
        for source, name_of, maker in self._derived:
            for name in source:
                if name_of(name) not in self._entries:
                    target = f"{source.module(name)}:{maker} of {name}"
                    load = partial(_made, maker, name)
                    self._offer(name_of(name), _Entry(source.origin(name), target, load))
        return self._entries

    def _offer(self, name: str, entry: _Entry) -> None:
        try:
            self._add(name, entry)
        except ConfigError as error:
            self._problems.append(Problem(name, entry.origin, str(error)))


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "a package"


def _made(maker: str, name: str) -> Any:
    return import_target(maker)(name)


def import_target(target: str) -> Any:
    """What ``module:object`` names.

    Raises:
        MissingExtraError: a module of this package needs a package that is absent.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        missing = missing_package(error)
        if missing is None or not module.startswith("bench."):
            raise
        raise missing from error


@dataclass(frozen=True, slots=True)
class Named:
    """Marks a text of a pydantic model as a name of a registry: ``Annotated[str, Named(MERGERS)]``.

    Attributes:
        registry: whose names are accepted, those of plugins too.
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        if name not in self.registry:
            known = ", ".join(map(repr, self.registry))
            raise ValueError(f"one of {known}.{did_you_mean(name, self.registry)}")
        return name


def registry_of(kinds: str) -> Registry[Any]:
    """The registry of one of :data:`KINDS`."""
    found: Registry[Any] = import_target(KINDS[kinds])
    return found


def all_problems() -> Iterator[Problem]:
    """Plugins of every kind that could not be registered, and groups that mean nothing here."""
    for kinds in KINDS:
        yield from registry_of(kinds).problems()
    for group in sorted(entry_points().groups):
        kinds = group.removeprefix(_PREFIX)
        if group.startswith(_PREFIX) and kinds not in KINDS:
            for point in entry_points(group=group):
                reason = f"the group {group!r} is unknown.{did_you_mean(kinds, KINDS)}"
                yield Problem(
                    point.name, _package(point), f"{reason} Its kinds: {', '.join(KINDS)}."
                )


def plugin_packages() -> set[str]:
    """Top-level packages that announce anything in a group of this package."""
    return {
        point.value.partition(":")[0].partition(".")[0]
        for group in entry_points().groups
        if group.startswith(_PREFIX)
        for point in entry_points(group=group)
    }


def module_sha256(module_name: str, label: str) -> str | None:
    """Identity of a plugin's source code.

    Args:
        module_name: an imported module.
        label: how a message names what is defined there.

    Returns:
        None for modules of this package (its version says it). For a file that was loaded by its
        path, the SHA-256 of its bytes as they were run. For an installed package, the SHA-256 over the
        relative paths and contents of all its ``.py`` files.

    Raises:
        MethodError: a source that is on no disk, for example of an interactive session.
    """
    top_name = module_name.partition(".")[0]
    module = sys.modules.get(module_name)
    if top_name == "bench":
        return None
    recorded = getattr(module, "__weavebench_sha256__", None)
    if isinstance(recorded, str):
        return recorded
    top = sys.modules.get(top_name, module)
    folders = [Path(p) for p in getattr(top, "__path__", ())]
    if folders:
        files = sorted(
            (file.relative_to(folder).as_posix(), file)
            for folder in folders
            for file in folder.rglob("*.py")
        )
        digest = hashlib.sha256()
        for relative, file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(canonical_json([relative, content]) + b"\n")
        return digest.hexdigest()
    single = getattr(module, "__file__", None)
    if single is None or not Path(single).is_file():
        raise MethodError(
            f"{label}: no source file, so results could not be tied to the code. Put it into a file "
            "of its own."
        )
    return hashlib.sha256(Path(single).read_bytes()).hexdigest()
