"""Checks of what a method declares; nothing is fitted."""

from __future__ import annotations

from typing import Any

import yaml

from bench.errors import ConfigError, MethodError
from bench.io import hash_json
from bench.methods import Capabilities, Job, Method, PlanSpec, config_dict, resolve_config
from bench.methods.config import config_fields, profiles_of
from bench.methods.registry import check_class
from bench.testing.results import CheckFailed
from bench.testing.session import Session

__all__ = [
    "check_capabilities",
    "check_config",
    "check_declared",
    "check_plan",
    "check_unknown_keys",
]


def check_declared(cls: Any) -> str:
    """Declares ``name``, ``version``, ``family``, a Config and a docstring; implements fit and score."""
    try:
        check_class(cls, getattr(cls, "__qualname__", repr(cls)))
    except MethodError as error:
        raise CheckFailed(str(error)) from error
    if not (cls.__doc__ or "").strip():
        raise CheckFailed(
            f"class {cls.__qualname__} has no docstring. Its first line is the method's description "
            "in `bench methods`; say in one sentence what it computes."
        )
    silent = [field.name for field in config_fields(cls.Config) if not field.description.strip()]
    if silent:
        raise CheckFailed(
            f"configuration keys without a description: {', '.join(silent)}. "
            "Write Field(default=..., description=...), or an `Attributes:` section in its docstring."
        )
    return f"{cls.name} {cls.version}, {cls.family.value}"


def check_config(session: Session) -> str:
    """The configuration, and every profile, survives a round trip through YAML."""
    config_cls = session.cls.Config
    configs = [("this configuration", session.config)]
    for profile in profiles_of(config_cls):
        try:
            configs.append((f"profile {profile!r}", resolve_config(session.cls, profile=profile)))
        except ConfigError as error:
            raise CheckFailed(f"profile {profile!r} is not accepted: {error}") from error
    for label, config in configs:
        text = yaml.safe_dump(config_dict(config))
        again = config_cls.model_validate(yaml.safe_load(text))
        if again != config or config_dict(again) != config_dict(config):
            raise CheckFailed(
                f"{label} changes in a round trip through YAML: {config_dict(config)} became "
                f"{config_dict(again)}. Use plain types (numbers, text, lists) for the fields."
            )
    return f"{len(configs)} configurations"


def check_unknown_keys(session: Session) -> str:
    """The Config class itself rejects unknown keys."""
    key = "no_such_key_7f3a"
    try:
        session.cls.Config.model_validate({**config_dict(session.config), key: 1})
    except ValueError:
        return ""
    raise CheckFailed(
        f"{session.cls.Config.__name__} accepts the unknown key {key!r}, so a typing error in a "
        'configuration would go unnoticed. Derive it from MethodConfig, or set extra="forbid".'
    )


def check_capabilities(session: Session) -> str:
    """``capabilities`` is a class method that returns the same Capabilities every time."""
    first, second = (session.cls.capabilities(session.config) for _ in range(2))
    if not isinstance(first, Capabilities) or first != second:
        raise CheckFailed(
            f"capabilities(config) returned {first!r}, then {second!r}; expected the same "
            "bench.methods.Capabilities every time."
        )
    return ""


def check_plan(session: Session) -> str:
    """``plan`` lists its jobs without data and without being fitted."""
    names = ("planted", "planted-source-0")
    spec = PlanSpec(
        target=names[0],
        sources=names[1:],
        profile="cpu",
        seed=0,
        training_hashes={name: hash_json(name) for name in names},
        n_users=100,
    )
    method: Method = session.cls(session.config)
    jobs = method.plan(spec)
    if not jobs or not all(isinstance(job, Job) for job in jobs):
        raise CheckFailed(f"plan(spec) returned {jobs!r}; expected a non-empty list of Job.")
    return f"{len(jobs)} jobs"
