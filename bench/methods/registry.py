"""Names of methods, and the road from a name to a class.

Five kinds of names lead to a method:

* a built-in: ``item-knn``;
* a method that an installed package announces in the entry-point group ``weavebench.methods``;
* ``merge-`` and the name of a merger (``merge-average`` for weight-average): that merge as a method;
* a class in a file: ``path/to/file.py:MyMethod`` (or ``path/to/file.py`` if it defines one);
* a RecBole model of the allow-list: ``recbole:NARM``.

Listing names imports no method. A plugin that cannot be imported is reported and breaks nothing
but itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bench.errors import BenchError, ConfigError, MethodError
from bench.merging.registry import MERGERS, merging_name
from bench.methods.base import Capabilities, Family, Method
from bench.methods.config import ConfigField, config_fields, profile_values
from bench.methods.plugin_files import (
    is_file_name,
    load_file,
    plugin_code,
    source_sha256,
)
from bench.names import METHOD_NAME
from bench.registry import Problem, Registry, import_target

__all__ = [
    "METHODS",
    "MethodInfo",
    "check_class",
    "describe",
    "describe_all",
    "load_class",
    "names",
    "problems",
    "register",
    "resolve",
    "source_sha256",
]

RECBOLE_PREFIX = "recbole:"
_RECBOLE = "bench.baselines.recbole.methods"
_CONTROLS = "bench.weaverec.controls"
_RECBOLE_ALLOWED = "bench.baselines.recbole.models:ALLOWED"

BUILT_INS: Mapping[str, str] = {
    "random": "bench.baselines.reference.random:Random",
    "popularity": "bench.baselines.reference.popularity:Popularity",
    "markov": "bench.baselines.reference.markov:Markov",
    "item-knn": "bench.baselines.reference.item_knn:ItemKNN",
    "ease": "bench.baselines.reference.ease:Ease",
    "title-knn": "bench.baselines.reference.title_knn:TitleKNN",
    "hybrid-knn": "bench.baselines.reference.hybrid_knn:HybridKNN",
    "gru4rec": f"{_RECBOLE}:GRU4Rec",
    "sasrec": f"{_RECBOLE}:SASRec",
    "bert4rec": f"{_RECBOLE}:BERT4Rec",
    "fmlp-rec": "bench.baselines.fmlp.method:FMLPRec",
    "mcrpl": "bench.baselines.mcrpl.method:MCRPL",
    "unisrec": "bench.baselines.unisrec.method:UniSRec",
    "vq-rec": "bench.baselines.vq_rec.method:VQRec",
    "recformer": "bench.baselines.recformer.method:RecFormer",
    "llm-rec": "bench.baselines.llm_rec.method:LLMRec",
    "llm-zero-shot": "bench.llm.methods.zero_shot:ZeroShot",
    "tallrec": "bench.llm.methods.tallrec:TALLRec",
    "target-only": "bench.llm.methods.single:TargetOnly",
    "all-data": "bench.llm.methods.single:AllData",
    "source-only": "bench.llm.methods.single:SourceOnly",
    "adamerging": "bench.llm.methods.adamerging:AdaMerging",
    "molorec": "bench.llm.methods.molorec:MoLoRec",
    "weaverec": "bench.weaverec.method:WeaveRec",
    "hybrid-only": f"{_CONTROLS}:HybridOnly",
    "seed-average": f"{_CONTROLS}:SeedAverage",
    "all-data-average": f"{_CONTROLS}:AllDataAverage",
}


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What ``bench methods NAME`` prints.

    Attributes:
        name, version, family: as declared by the class.
        origin: ``built-in``, ``RecBole``, ``package NAME VERSION``, or the file.
        summary: first line of the class's docstring.
        fields: configuration keys with types, defaults and descriptions.
        profiles: values that each profile changes, by the names of ``fields``.
        capabilities: capabilities under the default configuration, None if that needs a value.
        known_below_popularity: domain -> reason why the method is known to rank below popularity.
        source_sha256: SHA-256 of a plugin's source, None for what this package ships.
    """

    name: str
    version: str
    family: Family
    origin: str
    summary: str
    fields: tuple[ConfigField, ...]
    profiles: Mapping[str, Mapping[str, Any]]
    capabilities: Capabilities | None
    known_below_popularity: Mapping[str, str]
    source_sha256: str | None


METHODS: Registry[Any] = Registry("method", BUILT_INS, reserved=RECBOLE_PREFIX)
METHODS.derive(MERGERS, merging_name, "bench.llm.methods.merged:method_for")


def _recbole_names() -> list[str]:
    """Names of the RecBole allow-list; that module imports neither torch nor RecBole."""
    allowed: Mapping[str, Any] = import_target(_RECBOLE_ALLOWED)
    return [RECBOLE_PREFIX + name for name in sorted(allowed)]


def register(name: str, target: str | type[Method]) -> None:
    """Add a method to the registry of this process; see :meth:`bench.registry.Registry.register`."""
    METHODS.register(name, target)


def names(*, recbole: bool = True) -> list[str]:
    """Every name that :func:`resolve` accepts, except files, sorted; imports no method.

    Args:
        recbole: whether the ``recbole:NAME`` allow-list is included.
    """
    return sorted([*METHODS.names(), *(_recbole_names() if recbole else [])])


def problems() -> tuple[Problem, ...]:
    """Installed plugins whose name could not be registered."""
    return METHODS.problems()


def load_class(name: str) -> Any:
    """Load what a name points to without checking its declarations; ``bench check`` starts here.

    Raises:
        ConfigError: unknown name, no such file, or no such class in the file.
        MethodError: the file or plugin fails on import.
    """
    if is_file_name(name):
        return load_file(name)
    if name.startswith(RECBOLE_PREFIX):
        return import_target(f"{_RECBOLE}:method_for")(name.removeprefix(RECBOLE_PREFIX))
    METHODS.require(name, *_recbole_names())
    return METHODS.load(name)


def resolve(name: str) -> type[Method]:
    """Find the class of a method.

    Args:
        name: a registered name, ``recbole:MODEL`` or ``path/to/file.py:Class``.

    Raises:
        ConfigError: unknown name (with suggestions), file or class, or a file whose method has the
            name of a registered one.
        MethodError: a plugin fails on import, or does not declare what the contract asks for.
    """
    cls = check_class(load_class(name), name)
    if is_file_name(name):
        if cls.name in names():
            raise ConfigError(
                f"{name}: its method is named {cls.name!r}, which is taken "
                f"({_origin(cls.name)}); two methods of one name would share rows of a table. "
                "Change the attribute `name`."
            )
    elif cls.name != name:
        raise MethodError(
            f"method {name!r}: its class {cls.__qualname__} says name = {cls.name!r}. "
            "The announced and the declared name must be equal."
        )
    return cls


def check_class(value: Any, label: str) -> type[Method]:
    """Check that ``value`` is a usable method class: type, abstract methods, declarations.

    Raises:
        MethodError: with everything that is missing.
    """
    if not (isinstance(value, type) and issubclass(value, Method)):
        raise MethodError(f"{label}: found {value!r}, expected a subclass of bench.methods.Method.")
    faults = []
    for attribute in ("name", "version"):
        declared = getattr(value, attribute, None)
        if not (isinstance(declared, str) and declared):
            faults.append(f"`{attribute}` is {declared!r}, expected a non-empty string")
    if isinstance(getattr(value, "name", None), str) and not METHOD_NAME.fullmatch(value.name):
        faults.append(f"`name` is {value.name!r}, expected letters, digits and . _ : + -")
    if not isinstance(getattr(value, "family", None), Family):
        found = getattr(value, "family", None)
        faults.append(f"`family` is {found!r}, expected a member of bench.methods.Family")
    config = getattr(value, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        faults.append(f"`Config` is {config!r}, expected a subclass of MethodConfig")
    missing = sorted(getattr(value, "__abstractmethods__", ()))
    if missing:
        faults.append(f"not implemented: {', '.join(missing)}")
    if faults:
        raise MethodError(
            f"{label}: class {value.__qualname__} is incomplete: {'; '.join(faults)}."
        )
    return value


def describe(name: str) -> MethodInfo:
    """Describe a method for people; imports it.

    Raises:
        ConfigError, MethodError: as :func:`resolve`.
    """
    cls = resolve(name)
    try:
        config = cls.Config()
    except ValueError:  # a required key without default
        capabilities = None
    else:
        with plugin_code():
            capabilities = cls.capabilities(config)
    # inspect.cleandoc of the class's own docstring: an inherited one describes another class.
    summary = inspect.cleandoc(cls.__doc__ or "").split("\n", 1)[0]
    return MethodInfo(
        name=cls.name,
        version=cls.version,
        family=cls.family,
        origin=_origin(name),
        summary=summary,
        fields=config_fields(cls.Config),
        profiles=profile_values(cls.Config),
        capabilities=capabilities,
        known_below_popularity=cls.known_below_popularity,
        source_sha256=source_sha256(cls),
    )


def describe_all(wanted: Iterable[str] | None = None) -> tuple[list[MethodInfo], list[Problem]]:
    """Describe many methods; those that fail become problems instead of errors.

    Args:
        wanted: names, or None for every name except the RecBole allow-list.

    Returns:
        the descriptions, in the order of the names, and what is wrong with the others.
    """
    infos, found = [], list(problems())
    for name in names(recbole=False) if wanted is None else wanted:
        try:
            infos.append(describe(name))
        except BenchError as error:
            found.append(Problem(name, _origin(name), str(error)))
    return infos, found


def _origin(name: str) -> str:
    if is_file_name(name):
        return name.rpartition(":")[0] if name.rpartition(".py:")[1] else name
    if name.startswith(RECBOLE_PREFIX):
        return "RecBole"
    return METHODS.origin(name) if name in METHODS else "unknown"
