"""The folder of one adapter: what it must hold, how it is read, checked and made durable."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import InUseError, MethodError, ResultError, system_error
from bench.io import canonical_json, hash_json, read_json, sha256_file, write_json
from bench.llm.recipes import ADAPTER_ID
from bench.merging.folders import METADATA_FILE
from bench.merging.peft_config import CONFIG_FILE, WEIGHTS_FILE, explain
from bench.methods import AdapterUse
from bench.sealed import difference

__all__ = [
    "CONFIG",
    "FORMAT",
    "METADATA",
    "PACKAGES",
    "WEIGHTS",
    "Meter",
    "StoredAdapter",
    "check_files",
    "json_report",
    "may_pass",
    "origin_of",
    "peft_files",
    "read_stored",
    "sync_files",
    "sync_folder",
    "with_own_hash",
]

FORMAT = 1
"""Version of the adapter folder; readers refuse newer ones."""

CONFIG, WEIGHTS, METADATA = CONFIG_FILE, WEIGHTS_FILE, METADATA_FILE

_OWN_HASH = "metadata_sha256"

_REQUIRED: Mapping[str, type] = {
    "adapter_id": str,
    "kind": str,
    "label": str,
    "recipe": dict,
    "lineage": list,
    "cost": dict,
    "files": dict,
}
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**63)]


class _Use(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    adapter_id: str
    kind: str
    label: str
    seconds: _Seconds
    cpu_seconds: _Seconds
    tokens: _Count


class _Cost(BaseModel):
    model_config = ConfigDict(strict=True)

    seconds: _Seconds
    cpu_seconds: _Seconds
    tokens: _Count
    attempts: _Count


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)

    domain: str
    n_examples: _Count
    training_hash: str


class _Recipe(BaseModel):
    model_config = ConfigDict(strict=True)

    backbone: str | None = None
    mixture: list[_Part] | None = None


class _Metadata(BaseModel):
    """What is read of ``bench_adapter.json``; further keys are shown as they are."""

    model_config = ConfigDict(strict=True)

    recipe: _Recipe
    lineage: list[_Use]
    cost: _Cost
    files: dict[str, str]
    init_hash: str | None = None
    base_hash: str | None = None
    created: str = ""


PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """One complete adapter.

    Attributes:
        adapter_id: identity, 16 hex digits.
        folder: PEFT folder, to be read only.
        metadata: content of ``bench_adapter.json``; ``docs/adapters.md`` describes the fields.
    """

    adapter_id: str
    folder: Path
    metadata: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """``trained``, ``merged`` or ``init``."""
        return str(self.metadata["kind"])

    @property
    def label(self) -> str:
        """One line for people."""
        return str(self.metadata["label"])

    @property
    def backbone(self) -> str:
        """Name of the backbone as it was given; "" if only its hash is known."""
        return str(self.metadata["recipe"].get("backbone") or "")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that it was trained on, in the order of the mixture; none for other kinds."""
        return tuple(str(part["domain"]) for part in self.metadata["recipe"].get("mixture") or ())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file."""
        return str(self.metadata["files"][WEIGHTS])

    @property
    def seconds(self) -> float:
        """Wall seconds of making it, over all attempts."""
        return float(self.metadata["cost"]["seconds"])

    @property
    def tokens(self) -> int:
        """Tokens that its training processed."""
        return int(self.metadata["cost"]["tokens"])

    @property
    def n_bytes(self) -> int:
        """Size of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def uses(self, *, trained_now: bool = False) -> tuple[AdapterUse, ...]:
        """What using it means for the costs of a run: all that it was merged from, then itself."""
        cost = self.metadata["cost"]
        own = AdapterUse(
            self.adapter_id,
            self.kind,
            self.label,
            float(cost["seconds"]),
            float(cost["cpu_seconds"]),
            int(cost["tokens"]),
            trained_now,
        )
        return (*(AdapterUse(**use, trained_now=False) for use in self.metadata["lineage"]), own)


def _damaged(folder: Path, reason: str) -> ResultError:
    return ResultError(
        f"{folder}: damaged adapter: {reason}. Remove it with `bench adapters rm {folder.name}`; the "
        "run that needs it makes it again."
    )


def read_stored(folder: Path) -> StoredAdapter:
    """Read the metadata of an adapter; its other files are not opened.

    Raises:
        ResultError: damaged, or written by a newer version.
    """
    try:
        metadata = read_json(folder / METADATA)
    except ResultError as error:
        raise _damaged(folder, str(error)) from error
    if not isinstance(metadata, dict):
        raise _damaged(folder, f"{METADATA} holds {type(metadata).__name__}, expected an object")
    found = metadata.get("format")
    if not isinstance(found, int):
        raise _damaged(folder, f"{METADATA} has no format number")
    if found > FORMAT:
        raise ResultError(
            f"{folder}: adapter format {found}; this version reads up to {FORMAT}. Update weavebench."
        )
    for name, kind in _REQUIRED.items():
        if not isinstance(metadata.get(name), kind):
            raise _damaged(
                folder,
                f"{METADATA}: field {name!r} is {type(metadata.get(name)).__name__}, expected "
                f"{kind.__name__}",
            )
    if metadata["adapter_id"] != folder.name or not ADAPTER_ID.fullmatch(folder.name):
        raise _damaged(folder, f"{METADATA} belongs to adapter {metadata['adapter_id']!r}")
    if not {CONFIG, WEIGHTS} <= set(metadata["files"]):
        raise _damaged(folder, f"{METADATA} does not list {CONFIG} and {WEIGHTS}")
    try:
        _Metadata.model_validate(metadata)
    except ValidationError as error:
        parts = {str(item["loc"][0]) for item in error.errors()}
        about = "cost or lineage is incomplete: " if parts & {"cost", "lineage"} else ""
        raise _damaged(folder, f"{METADATA}: {about}{explain(error)}") from error
    return StoredAdapter(folder.name, folder, metadata)


def check_files(adapter: StoredAdapter) -> None:
    """Compare an adapter with the SHA-256 in its metadata, files once per process.

    Raises:
        ResultError: a file is absent or was changed.
    """
    files = adapter.metadata["files"]
    for name in files:
        if Path(name).name != name:
            raise _damaged(adapter.folder, f"the file name {name!r} leads out of the folder")
    if not _is_as_written(adapter.metadata):
        raise _damaged(adapter.folder, f"{METADATA} was changed")
    problem = difference(adapter.folder, files)
    if problem:
        raise _damaged(adapter.folder, problem)


def with_own_hash(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with the SHA-256 of themselves."""
    return {**metadata, _OWN_HASH: hash_json(metadata)}


def _is_as_written(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata fit their own SHA-256; earlier versions wrote none."""
    rest = {key: value for key, value in metadata.items() if key != _OWN_HASH}
    return _OWN_HASH not in metadata or metadata[_OWN_HASH] == hash_json(rest)


def peft_files(folder: Path, owner: str) -> dict[str, str]:
    """SHA-256 of the files of a PEFT adapter that has just been written, by name.

    PEFT's own model card, all blanks to fill in, is removed.

    Raises:
        MethodError: configuration or weights are missing, or something else is there.
    """
    names = sorted(path.name for path in folder.iterdir())
    missing = {CONFIG, WEIGHTS} - set(names)
    if missing:
        raise MethodError(
            f"{owner}: no {' and no '.join(sorted(missing))} was written; found "
            f"{', '.join(names) or 'nothing'}. A PEFT folder in safetensors format is expected."
        )
    kept = [name for name in names if name not in ("README.md", METADATA)]
    odd = [name for name in kept if not name.endswith((".json", ".safetensors"))]
    if odd:
        raise MethodError(
            f"{owner}: unexpected files in the adapter's folder: {', '.join(odd)}; expected JSON and "
            "safetensors. Checkpoints belong in the other folder."
        )
    (folder / "README.md").unlink(missing_ok=True)
    return {name: sha256_file(folder / name) for name in kept}


def json_report(report: object, owner: str) -> dict[str, Any]:
    """A report as plain JSON values; NumPy scalars and tuples are converted.

    Raises:
        MethodError: it is no mapping, or holds something without a JSON form.
    """
    try:
        plain = _plain(report)
        canonical_json(plain)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{owner}: the report of its training is not JSON ({error}).") from error
    if not isinstance(plain, dict):
        raise MethodError(
            f"{owner}: the report of its training is {type(report).__name__}, expected a mapping."
        )
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value


@dataclass(slots=True)
class Meter:
    """Measures the cost of an adapter over interrupted attempts.

    Attributes:
        file: where the cost of earlier attempts is kept.
    """

    file: Path
    _earlier: dict[str, float] = field(init=False)
    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        try:
            saved = read_json(self.file)
            self._earlier = {
                key: float(saved[key]) for key in ("seconds", "cpu_seconds", "attempts")
            }
        except (ResultError, KeyError, TypeError, ValueError):
            self._earlier = {"seconds": 0.0, "cpu_seconds": 0.0, "attempts": 0}

    def measured(self) -> dict[str, float]:
        """Wall and CPU seconds, and attempts, so far."""
        return {
            "seconds": self._earlier["seconds"] + time.perf_counter() - self._wall,
            "cpu_seconds": self._earlier["cpu_seconds"] + time.process_time() - self._cpu,
            "attempts": self._earlier["attempts"] + 1,
        }

    def save(self) -> None:
        """Keep the cost so far for the attempt that goes on from here."""
        write_json(self.file, self.measured())

    def cost(self, report: Mapping[str, Any]) -> dict[str, float | int]:
        """The whole cost. A killed attempt measures nothing, so that a larger report is believed."""
        measured = self.measured()
        return {
            **{
                key: round(max(measured[key], _number(report.get(key))), 3)
                for key in ("seconds", "cpu_seconds")
            },
            "tokens": int(_number(report.get("tokens"))),
            "attempts": int(measured["attempts"]),
        }


def _number(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else 0.0  # type: ignore[arg-type]


def sync_files(folder: Path) -> None:
    """Make the files of a folder durable, so that a rename never publishes an empty one."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, if the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def origin_of(folder: Path) -> dict[str, Any]:
    """What a merger wrote about an adapter; {} if nothing was written."""
    found = read_json(folder / METADATA) if (folder / METADATA).is_file() else {}
    return found if isinstance(found, dict) else {}


def may_pass(error: BaseException) -> bool:
    """Whether the same training may succeed later, so that its checkpoints are worth keeping."""
    # torch has an exception of its own for a full accelerator; importing it here would cost seconds.
    exhausted = type(error).__name__ == "OutOfMemoryError"
    known = KeyboardInterrupt | OSError | MemoryError | InUseError
    return exhausted or isinstance(error, known) or system_error(error) is not None
