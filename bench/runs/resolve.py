"""From a specification to a class, a configuration and its sources; nothing is loaded or trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.data.load import known_names, missing_domains, not_found, study_sources
from bench.enclosure import enclose_import
from bench.errors import ConfigError, unknown_name
from bench.io import canonical_json
from bench.methods import Capabilities, Method, MethodConfig
from bench.methods.config import chosen_plugins, config_dict, resolve_config
from bench.methods.registry import resolve as resolve_method
from bench.methods.registry import source_sha256
from bench.runs.environment import require_device
from bench.runs.prints import prints_aside
from bench.runs.spec import RunSpec

__all__ = ["Resolved", "require_available", "resolve_spec"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A specification whose every name has been looked up.

    Attributes:
        spec: the specification, with sources and seed made explicit, and without overrides that
            change nothing.
        method_cls: the method's class.
        config: its validated configuration.
        capabilities: what the configured method needs.
        plugin_sha256: SHA-256 of a plugin's source, None for built-in methods.
        content: SHA-256 of what the configuration names by a path, and of the source of plugins that it names,
            by setting.
    """

    spec: RunSpec
    method_cls: type[Method]
    config: BaseModel
    capabilities: Capabilities
    plugin_sha256: str | None
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_values(self) -> dict[str, Any]:
        """The resolved configuration as it is in the run's identity, as JSON values."""
        config = self.config
        return config.identity() if isinstance(config, MethodConfig) else config_dict(config)


def resolve_spec(spec: RunSpec, *, planning: bool = False, given: Collection[str] = ()) -> Resolved:
    """Look up the method, validate its configuration and fix sources and seed.

    Args:
        spec: what is asked for.
        planning: whether nothing will be run, so that packages and models may be absent: what a GPU
            needs is planned on a laptop.
        given: names of domains in memory.

    Raises:
        ConfigError: an unknown method, domain, profile or configuration key; a source that is
            unknown, the target or named twice (also if the method uses none); a method that needs
            sources and has none; a profile that is defined on other training events; a candidate file
            without ``negatives=imported`` or the reverse; a device that there is none of.
        MissingExtraError: the method needs a package or asset that is absent.
    """
    require_device(spec.device, present=not planning)
    with prints_aside(), enclose_import(spec.method, data_root=spec.data_root):
        method_cls = resolve_method(spec.method)
        config = resolve_config(method_cls, profile=spec.profile, overrides=spec.overrides)
        capabilities = method_cls.capabilities(config)
    _require_known((spec.target, *(spec.sources or ())), spec, given)
    wanted = method_cls.run_defaults(spec.profile).train_on
    if wanted not in (None, spec.protocol.train_on):
        raise ConfigError(
            f"profile {spec.profile!r} of {method_cls.name} is defined on {wanted} events, a task of its "
            f"own; this run would train on {spec.protocol.train_on}. Add --train-on {wanted}."
        )
    if (spec.protocol.negatives == "imported") != (spec.candidates is not None):
        raise ConfigError(
            "a candidate file and negatives 'imported' belong together: "
            f"negatives are {spec.protocol.negatives!r}, candidate file {spec.candidates}."
        )
    if spec.extra_candidate_seeds and spec.protocol.negatives in ("full", "imported"):
        raise ConfigError(
            f"further candidate seeds {spec.extra_candidate_seeds} with {spec.protocol.negatives!r} "
            "negatives, which are not drawn. Leave the seeds out or use --negatives uniform."
        )
    with prints_aside(), enclose_import(spec.method, data_root=spec.data_root):
        if not planning:
            method_cls.require(config)
        content = {**chosen_plugins(config), **method_cls.content_hashes(config)}
    update: dict[str, Any] = {
        "sources": _sources(spec, method_cls, capabilities),
        "seed": spec.seed if capabilities.trainable else 0,
        "overrides": _effective(method_cls, config, spec),
    }
    return Resolved(
        spec.model_copy(update=update),
        method_cls,
        config,
        capabilities,
        source_sha256(method_cls),
        content,
    )


def _effective(method_cls: type[Method], config: BaseModel, spec: RunSpec) -> Mapping[str, Any]:
    """The overrides that differ from the profile: a default typed out is still the default row."""
    if not spec.overrides:
        return spec.overrides
    try:
        plain = config_dict(resolve_config(method_cls, profile=spec.profile))
    except ConfigError:  # a required key without default: nothing to compare with
        return spec.overrides
    resolved = config_dict(config)
    kept = {
        key: value for key, value in spec.overrides.items() if _at(resolved, key) != _at(plain, key)
    }
    # A method may derive values from what is set at all; then the overrides stay as they are.
    again = resolve_config(method_cls, profile=spec.profile, overrides=kept)
    return kept if config_dict(again) == resolved else spec.overrides


def _at(values: Mapping[str, Any], key: str) -> bytes:
    """The value under a dotted key, in a form that tells 1 from true."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return canonical_json(found)


def _require_known(names: Iterable[str], spec: RunSpec, given: Collection[str]) -> None:
    known = {*given, *known_names(spec.data_root)}
    for name in names:
        if name not in known:
            raise unknown_name("domain", name, known)


def _sources(
    spec: RunSpec, method_cls: type[Method], capabilities: Capabilities
) -> tuple[str, ...]:
    """The sources of the run; what was given is checked, whether the method uses it or not."""
    if spec.target in (spec.sources or ()):
        raise ConfigError(
            f"{spec.target} is both the target and a source; a source must be another domain."
        )
    if len(set(spec.sources or ())) != len(spec.sources or ()):
        raise ConfigError(f"a source is named twice: {', '.join(spec.sources or ())}.")
    if not capabilities.needs_sources:
        return ()
    sources = study_sources(spec.target, spec.data_root) if spec.sources is None else spec.sources
    if not sources:
        alone = " ".join(f"--set {key}={value}" for key, value in method_cls.alone.items())
        without = f"{spec.method} with {alone}" if alone else "target-only or sasrec"
        raise ConfigError(
            f"{spec.method} learns from source domains, and {spec.target} has none: it was given "
            f"{'none' if spec.sources is not None else 'no --sources and is in no study group'}. "
            f"Name some, for example --sources {_example(spec)}. Without any, {without} learns "
            "from the target alone."
        )
    return tuple(sources)


def _example(spec: RunSpec) -> str:
    """Names for ``--sources``: the target's group, or else any that are known."""
    group = study_sources(spec.target, spec.data_root)
    others = [name for name in known_names(spec.data_root) if name != spec.target]
    return ",".join(group or others[:2])


def require_available(specs: Iterable[RunSpec], given: Collection[str] = ()) -> None:
    """Fail with one error that lists every missing domain of all specifications.

    Args:
        specs: the specifications.
        given: names of domains in memory.

    Raises:
        ConfigError: a domain that nobody knows.
        MissingDataError: at least one target or source is not on disk; the message names the ways to get it.
    """
    by_root: dict[Path | None, list[str]] = {}
    for spec in specs:
        names = by_root.setdefault(spec.data_root, [])
        names.extend(
            name
            for name in (spec.target, *(spec.sources or ()))
            if name not in names and name not in given
        )
    for root, names in by_root.items():
        missing = missing_domains(names, data_root=root)
        if missing:
            raise not_found(missing, data_root=root)
