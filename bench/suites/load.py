"""Reading and checking a suite file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.documents import DocumentError, parse_yaml
from bench.errors import ConfigError, unknown_name

__all__ = ["SCALES", "Scale", "Suite", "load_suite", "suite_names"]

SCALES = ("embedded", "cpu", "paper")
"""Known scales: embedded domains, real domains with CPU profiles, real domains as in the paper."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Strict):
    """What a suite means at one scale.

    Attributes:
        targets: target domains, in the order of the table.
        profile: named hyper-parameters.
        users: users that the table is about: ``full`` or a number.
        seeds: training seeds of trainable methods.
    """

    targets: tuple[str, ...] = Field(min_length=1)
    profile: str = "cpu"
    users: Literal["full"] | int = "full"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)


class Suite(_Strict):
    """A table of several targets.

    Attributes:
        name: name of the file without its suffix.
        title: one sentence, the caption.
        methods: methods that have a row in any case, in the paper's order. A file may group them by
            family.
        families: family of each method, if the file groups them.
        primary: metric that is tested and sorts the rows.
        reference: method that ``^`` refers to, or None.
        reported: publication quoted below a rule, or None.
        scales: by name, keys of :data:`SCALES`.
    """

    name: str
    title: str
    methods: tuple[str, ...] = Field(min_length=1)
    families: dict[str, str] = Field(default_factory=dict)
    primary: str = "ndcg@5"
    reference: str | None = None
    reported: str | None = None
    scales: dict[str, Scale] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, content: Any) -> Any:
        groups = content.get("methods") if isinstance(content, dict) else None
        if not isinstance(groups, dict) or not all(isinstance(g, list) for g in groups.values()):
            return content
        families = {str(method): family for family, group in groups.items() for method in group}
        methods = [method for group in groups.values() for method in group]
        return {**content, "methods": methods, "families": families}

    @model_validator(mode="after")
    def _check(self) -> Suite:
        unknown = sorted(set(self.scales) - set(SCALES))
        if unknown:
            raise ValueError(f"unknown scales {unknown}; expected some of {list(SCALES)}")
        for what, values in (
            ("methods", self.methods),
            *((f"targets of {key}", scale.targets) for key, scale in self.scales.items()),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} hold a name twice")
        if self.reference is not None and self.reference not in self.methods:
            raise ValueError(f"reference {self.reference!r} is not among the methods")
        return self

    def scale(self, name: str) -> Scale:
        """The scale of that name.

        Raises:
            ConfigError: the suite has no such scale.
        """
        if name not in self.scales:
            raise unknown_name(f"scale of suite {self.name}", name, self.scales)
        return self.scales[name]


def suite_names() -> list[str]:
    """Names of the suites in the package."""
    folder = resources.files("bench.suites")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_suite(name: str) -> Suite:
    """Read a suite of the package by its name, or a file of one's own (``path/to/suite.yaml``).

    Raises:
        ConfigError: no such suite, no YAML, an unknown key or a value out of range.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no suite file {name}; suites of the package: {suite_names()}.")
        text, stem = path.read_bytes(), path.stem
    else:
        if name not in suite_names():
            raise unknown_name("suite", name, suite_names())
        source = resources.files("bench.suites").joinpath(f"{name}.yaml")
        text, stem = source.read_bytes(), name
    try:
        content = parse_yaml(text)
        if not isinstance(content, dict):
            raise ConfigError(f"suite {name}: found {type(content).__name__}, expected a mapping.")
        return Suite.model_validate({"name": stem, **content})
    except DocumentError as error:
        where = f", line {error.line}" if error.line else ""
        raise ConfigError(f"suite {name}{where}: not YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'suite'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"suite {name}: {where}. Correct the file.") from error
