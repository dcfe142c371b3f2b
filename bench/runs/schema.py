"""What the JSON files of a run must hold before anything reads them: they may come from anywhere.

A newer version may add fields; what is named here has the form named here. The files are checked and
then read as the plain dictionaries that they are, so that nothing in them is lost or rounded.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from bench.names import DOMAIN_NAME, METHOD_NAME

__all__ = ["manifest_fault", "metrics_fault"]


def _method(name: str) -> str:
    if not METHOD_NAME.fullmatch(name):
        raise ValueError("expected letters, digits and . _ : + -, beginning with a letter or digit")
    return name


def _domain(name: str) -> str:
    if not DOMAIN_NAME.fullmatch(name):
        raise ValueError("expected 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise ValueError("expected 16 hex digits")
    return text


def _digest(text: Any) -> Any:
    if not isinstance(text, str):
        raise ValueError("no SHA-256, which is 64 hex digits")
    return text


_Method = Annotated[StrictStr, AfterValidator(_method)]
_Domain = Annotated[StrictStr, AfterValidator(_domain)]
_Metric = Annotated[StrictStr, Field(pattern=r"^[a-z]+(@[0-9]{1,4})?$")]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
_Count = Annotated[StrictInt, Field(ge=0)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=False)


class _DeclaredMethod(_Open):
    name: _Method
    version: StrictStr
    family: _Method
    row_note: StrictStr = ""
    plugin_sha256: StrictStr | None = None
    trainable: StrictBool = True
    needs_text: StrictBool = False


class _Task(_Open):
    task_hash: StrictStr
    candidates_hash: StrictStr
    guard: _Method
    options: dict[str, Any] = Field(default_factory=dict)
    source_hashes: dict[str, StrictStr] = Field(default_factory=dict)
    n_users: _Count = 0
    n_items: _Count = 0
    left_out: _LeftOut | None = None


class _LeftOut(_Open):
    n_users: _Count
    needed: _Count
    fewest: _Count


class _Imported(_Open):
    file: StrictStr
    scores_sha256: StrictStr
    trained: StrictBool


class _Users(_Open):
    users_hash: StrictStr
    n_users: _Count
    limit: _Count | None = None


class _Adapter(_Open):
    adapter_id: StrictStr
    kind: StrictStr
    label: StrictStr
    seconds: _Seconds
    trained_now: StrictBool


class _Manifest(_Open):
    format: StrictInt
    run_id: Annotated[StrictStr, AfterValidator(_run_id)]
    status: StrictStr
    method: _DeclaredMethod
    target: _Domain
    sources: list[_Domain]
    profile: _Method
    seed: _Count
    task: _Task
    users: _Users
    config: dict[str, Any]
    seconds: dict[str, Any]
    files: dict[str, Annotated[str, BeforeValidator(_digest)]]
    sets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    adapters: list[_Adapter] = Field(default_factory=list)
    data: dict[str, dict[str, Any]] | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    packages: dict[str, StrictStr] | None = None
    hardware: dict[str, Any] | None = None
    peak_memory: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    validations: list[dict[str, Any]] | None = None
    imported: _Imported | None = None

    @model_validator(mode="after")
    def _durations(self) -> _Manifest:
        for name, value in self.seconds.items():
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"seconds.{name} is {value!r}, expected a number")
        return self


class _Figure(_Open):
    mean: _Share
    ci95: Annotated[list[_Share], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _ordered(self) -> _Figure:
        if self.ci95[0] > self.ci95[1]:
            raise ValueError(f"the interval {self.ci95} begins above its end")
        return self


class _Metrics(_Open):
    metrics: dict[_Metric, _Figure] = Field(min_length=1)
    ties: dict[str, Any] = Field(default_factory=dict)
    sets: dict[str, Any] = Field(default_factory=dict)


def manifest_fault(content: dict[str, Any]) -> str | None:
    """What is wrong with the content of a manifest, or None."""
    return _fault(_Manifest, content)


def metrics_fault(content: dict[str, Any]) -> str | None:
    """What is wrong with the content of ``metrics.json``, or None."""
    return _fault(_Metrics, content)


def _fault(model: type[BaseModel], content: dict[str, Any]) -> str | None:
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part != "[key]")
        if first["type"] == "missing":
            return f"lacks the field '{field}'"
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if not field:
            return expected
        found = repr(first["input"])
        found = found if len(found) <= 80 else f"{found[:80]}..."
        if first["type"] in ("dict_type", "model_type"):
            expected = "an object"
        if first["type"].endswith("_type"):
            return (
                f"field '{field}' is {type(first['input']).__name__} {found}, expected {expected}"
            )
        return f"{field} {found}: expected {expected.removeprefix('expected ')}"
    return None
