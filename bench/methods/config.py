"""Configuration of a method: defaults <- profile <- overrides, checked, with readable errors.

Three layers are merged and validated once: the defaults of ``Method.Config``, the values that the
chosen profile changes, and the overrides of the user (``--config FILE``, then ``--set key=value``).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bench.documents import DocumentError, parse_yaml
from bench.errors import ConfigError, did_you_mean
from bench.methods.base import Method, MethodConfig
from bench.registry import Named, Registry

__all__ = [
    "ConfigField",
    "chosen_plugins",
    "config_dict",
    "config_fields",
    "load_config_file",
    "merge",
    "parse_set",
    "profile_values",
    "profiles_of",
    "resolve_config",
]

# YAML 1.1 reads ``1e-3`` as text because the mantissa has no dot; people mean the number.
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


_ABSENT = object()


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One configuration key, for listings.

    Attributes:
        name: the key, with dots if it belongs to a group: ``lora.r``.
        type: its type, for example ``int``, ``float | None`` or the words that it may be.
        default: default value, JSON-serialisable; None if there is none.
        required: whether the key has no default.
        description: the documented meaning, or "".
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str


def profiles_of(config_cls: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """Profiles of a configuration class; a plain pydantic model has ``cpu`` and ``paper``, empty."""
    profiles: Mapping[str, Mapping[str, Any]] = getattr(
        config_cls, "profiles", MethodConfig.profiles
    )
    return profiles


def config_fields(config_cls: type[BaseModel]) -> tuple[ConfigField, ...]:
    """Describe every key of a configuration class, in order of definition.

    A group of keys with a default is described key by key, under the names that ``--set`` takes.
    """
    documented = _documented(config_cls)
    fields: list[ConfigField] = []
    for name, info in config_cls.model_fields.items():
        default = None
        if not info.is_required():
            default = info.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            values = default.model_dump(mode="json")
            for field in config_fields(type(default)):
                found = _at(values, field.name)
                # A class may leave defaults out of its values, to keep the identity of older ones.
                shown = field.default if found is _ABSENT else found
                fields.append(replace(field, name=f"{name}.{field.name}", default=shown))
            continue
        fields.append(_describe_field(name, info, info.description or documented.get(name, "")))
    return tuple(fields)


def profile_values(config_cls: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """What every profile changes, by the names of :func:`config_fields`."""
    names = [field.name for field in config_fields(config_cls)]
    found: dict[str, dict[str, Any]] = {}
    for profile, changes in profiles_of(config_cls).items():
        nested = _nested(changes)
        values = {name: _at(nested, name) for name in names}
        found[profile] = {name: value for name, value in values.items() if value is not _ABSENT}
    return found


def _at(values: Any, key: str) -> Any:
    """The value under a dotted key, or ``_ABSENT``."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _documented(config_cls: type[BaseModel]) -> dict[str, str]:
    """Meanings of the keys from the ``Attributes:`` sections of the class and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(config_cls.__mro__):
        _, marker, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        if marker and issubclass(cls, BaseModel):
            # An entry begins at the section's own indent, its continuation lines stand deeper.
            for entry in re.split(r"\n(?=(?: {4})?\S)", section):
                name, colon, text = entry.strip().partition(":")
                if colon and name.strip().isidentifier():
                    found[name.strip()] = " ".join(text.split())
    return found


def _describe_field(name: str, info: FieldInfo, description: str) -> ConfigField:
    default = info.get_default(call_default_factory=True) if not info.is_required() else None
    return ConfigField(
        name=name,
        type=_type_text(
            Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        ),
        default=None if default is PydanticUndefined else default,
        required=info.is_required(),
        description=description,
    )


def _type_text(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        named = _named(annotation.__metadata__)
        return _type_text(annotation.__origin__) if named is None else " | ".join(named)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, get_args(annotation)))
    if annotation is NoneType:
        return "null"
    if origin is None and isinstance(annotation, type):
        return annotation.__name__
    if origin is Mapping:
        return "mapping"
    return str(annotation).replace("typing.", "")


def _named(metadata: Iterable[Any]) -> Registry[Any] | None:
    """The registry whose names a field takes."""
    return next((one.registry for one in metadata if isinstance(one, Named)), None)


def chosen_plugins(config: BaseModel) -> dict[str, str]:
    """SHA-256 of the source of every plugin that a configuration chooses by name, by dotted setting."""
    found: dict[str, str] = {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": sha for key, sha in chosen_plugins(value).items()}
            continue
        # In ``Named | None`` the mark is inside the union.
        inner = [m for part in get_args(info.annotation) for m in getattr(part, "__metadata__", ())]
        named = _named([*info.metadata, *inner])
        sha = named.source_sha256(value) if named is not None and value is not None else None
        if sha is not None:
            found[name] = sha
    return found


def resolve_config(
    method_cls: type[Method], *, profile: str = "cpu", overrides: Mapping[str, Any] | None = None
) -> BaseModel:
    """Build and check the configuration of one run.

    Args:
        method_cls: the method.
        profile: name of one of ``Config.profiles``.
        overrides: values that win over the profile; a dotted key (``a.b``) sets a nested value.

    Returns:
        An instance of ``method_cls.Config``.

    Raises:
        ConfigError: unknown profile or key (with suggestions), or values that do not fit (with
            field, value and expectation; all of them in one message).
    """
    config_cls = method_cls.Config
    owner = getattr(method_cls, "name", method_cls.__name__)
    profiles = profiles_of(config_cls)
    if profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise ConfigError(
            f"method {owner!r} has no profile {profile!r}.{did_you_mean(profile, profiles)} "
            f"Its profiles: {known}. Choose one of them with --profile."
        )
    values = merge(_nested(profiles[profile]), _nested(overrides or {}))
    _reject_unknown(owner, config_cls, values)
    try:
        return config_cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(owner, config_cls, error)) from error


def config_dict(config: BaseModel) -> dict[str, Any]:
    """The resolved configuration as JSON-serialisable values; validating them gives it back."""
    return config.model_dump(mode="json")


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` options; values are YAML scalars or lists (``true``, ``0.1``, ``[1, 2]``).

    Raises:
        ConfigError: no ``=``, an empty or repeated key, or a value that is not YAML.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, found, raw = text.partition("=")
        key = key.strip()
        if not found or not key:
            raise ConfigError(
                f"--set {text!r}: expected key=value, for example --set learning_rate=0.001."
            )
        if key in values:
            raise ConfigError(f"--set {text!r}: {key!r} is set twice; give every key once.")
        try:
            values[key] = _typed(parse_yaml(raw))
        except DocumentError as error:
            raise ConfigError(
                f"--set {_short(text)!r}: the value is not YAML ({error}). "
                f"Quote text with special characters: --set \"{key}='...'\"."
            ) from error
    return values


def load_config_file(path: Path) -> dict[str, Any]:
    """Read overrides from a YAML (or JSON) file that holds one mapping.

    Raises:
        ConfigError: the file is absent, is not YAML, or is not a mapping with text keys.
    """
    try:
        value = parse_yaml(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror}).") from error
    except DocumentError as error:
        where = f", line {error.line}" if error.line else ""
        raise ConfigError(
            f"{path}{where}: not YAML ({error}). Expected one `key: value` a line."
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(
            f"{path}: holds {type(value).__name__}, expected a mapping of keys to values "
            "(one `key: value` a line)."
        )
    return {key: _typed(item) for key, item in value.items()}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``over``, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _typed(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        if not math.isfinite(float(value)):
            raise ConfigError(f"{_short(value)} is beyond the range of numbers (1.8e308).")
        return float(value)
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested mappings: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        head, *rest = key.split(".")
        for part in reversed(rest):
            value = {part: value}
        result = merge(result, {head: value})
    return result


def _keys(config_cls: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in config_cls.model_fields.items()}


def _reject_unknown(
    owner: str, config_cls: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> None:
    """Refuse keys that no field reads, also if the model itself would ignore them."""
    keys = _keys(config_cls)
    for key, value in values.items():
        if key not in keys:
            listed = ", ".join(prefix + known for known in sorted(keys)) or "none"
            raise ConfigError(
                f"method {owner!r} has no configuration key {_short(f'{prefix}{key}')!r}."
                f"{did_you_mean(str(key), keys)} Its keys: {listed}. See `bench methods {owner}`."
            )
        nested = keys[key].annotation
        if (
            isinstance(value, Mapping)
            and isinstance(nested, type)
            and issubclass(nested, BaseModel)
        ):
            _reject_unknown(owner, nested, value, f"{prefix}{key}.")


def _explain(owner: str, config_cls: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"])
        expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        expected, value = expected.removesuffix("."), item["input"]
        if item["type"] == "missing":
            lines.append(f"{field}: missing, it has no default; give it with --set {field}=...")
        elif not field:
            # Of settings that do not go together a validator says all there is to say.
            lines.append(expected)
        else:
            if item["type"] in ("list_type", "tuple_type") and isinstance(value, str):
                expected += f", written as [{value}]"
            lines.append(
                f"{field}: found {_short(repr(value))} ({type(value).__name__}), expected {expected}"
            )
    return f"method {owner!r}: configuration not accepted. " + "; ".join(lines) + "."
