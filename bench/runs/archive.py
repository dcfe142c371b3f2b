"""Runs as one file: export, import, and the specification to repeat a run from its manifest."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pydantic import ValidationError

from bench.enclosure import enclose_import
from bench.errors import ConfigError, ResultError
from bench.io import StrPath, atomic_folder, lock
from bench.methods import MethodConfig
from bench.methods.config import config_dict, resolve_config
from bench.methods.registry import resolve as resolve_method
from bench.partial import atomic_file, partial_folder
from bench.process import usable_cpus
from bench.runs.prints import prints_aside
from bench.runs.spec import RunSpec
from bench.runs.store import WORK, RunStore, open_store
from bench.runs.stored import MANIFEST, StoredRun, check_file, read_run

__all__ = ["export_runs", "import_runs", "reproduce_spec"]

_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 1 << 40


def export_runs(runs: Sequence[StoredRun], destination: StrPath) -> Path:
    """Copy runs, complete with logs and models, to a ``.tar.gz`` file or into a folder.

    Args:
        runs: what to export; every file is compared with its manifest first.
        destination: a name that ends in ``.tar.gz`` or ``.tgz``, else a folder.

    Returns:
        The destination.

    Raises:
        ResultError: no run, a damaged run, or the file exists.
    """
    destination = Path(destination)
    if not runs:
        raise ResultError("nothing to export: name at least one run (`bench runs list`).")
    for run in runs:
        _check_all(run)
    if not destination.name.endswith((".tar.gz", ".tgz")):
        for run in runs:
            _place(run, RunStore(destination), replace=False)
        return destination
    if destination.exists():
        raise ResultError(f"{destination} exists already; name another file or remove it.")
    with atomic_file(destination) as stream:
        _write_tar(runs, stream)
    return destination


def _check_all(run: StoredRun) -> None:
    """Compare every file with the manifest; a link could lead out of the folder."""
    with run.reading():
        for name in run.manifest["files"]:
            parts = PurePosixPath(name).parts
            inside = [run.path.joinpath(*parts[: i + 1]) for i in range(len(parts))]
            if any(path.is_symlink() for path in inside):
                raise ResultError(
                    f"{run.path / name}: a link, expected a file; nothing was copied."
                )
            check_file(run.path, name, run.manifest["files"])


def _write_tar(runs: Sequence[StoredRun], stream: BinaryIO) -> None:
    """Write members in a fixed order, without owner, mode or time: equal runs, equal bytes."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for run in runs:
            folder = f"{run.path.parent.name}/{run.path.name}"
            with run.reading():
                for file in (MANIFEST, *sorted(run.manifest["files"])):
                    path = run.path / file
                    info = tarfile.TarInfo(f"{folder}/{file}")
                    info.size = path.stat().st_size
                    with path.open("rb") as content:
                        archive.addfile(info, content)


def import_runs(
    source: StrPath, store: RunStore | StrPath, *, replace: bool = False
) -> list[StoredRun]:
    """Copy runs from an exported file or from a folder of runs into a store.

    An archive is unpacked inside the store's work folder; members that are links, devices, or point
    outside are refused before anything is written. Every run is read and its files are compared with
    its manifest before the first one is placed.

    Args:
        source: a ``.tar.gz`` file, or a folder with runs below it.
        store: where to.
        replace: whether stored runs of the same id are replaced; otherwise an equal one is kept and a
            different one is an error.

    Returns:
        The imported runs, in the order of their folders.

    Raises:
        ResultError: not an archive of runs, unsafe, damaged, or in conflict with the store.
    """
    source, store = Path(source), open_store(store)
    if source.is_dir():
        return _import_folder(source, store, replace=replace)
    if not source.is_file():
        raise ResultError(f"{source}: no such file or folder. `bench runs export` writes one.")
    scratch = store.root / WORK
    scratch.mkdir(parents=True, exist_ok=True)
    with partial_folder(scratch) as unpacked:
        _unpack(source, unpacked)
        return _import_folder(unpacked, store, replace=replace, label=source)


def _unpack(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            members = archive.getmembers()
            if len(members) > _MAX_MEMBERS or sum(m.size for m in members) > _MAX_BYTES:
                raise ResultError(f"{source}: too large for an export of runs; nothing was read.")
            for member in members:
                _require_safe(member, source)
            for member in members:
                if not member.isfile():
                    continue
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                if content is None:
                    raise ResultError(f"{source}: member {member.name!r} cannot be read.")
                with content, path.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ResultError(
            f"{source}: not a complete .tar.gz file ({error}). Export the runs again."
        ) from error


def _require_safe(member: tarfile.TarInfo, source: Path) -> None:
    path = PurePosixPath(member.name)
    odd = "\\" in member.name or "\0" in member.name or ":" in member.name
    if path.is_absolute() or ".." in path.parts or odd:
        raise ResultError(
            f"{source}: member {member.name!r} points outside the archive; nothing was imported."
        )
    if not (member.isfile() or member.isdir()):
        raise ResultError(
            f"{source}: member {member.name!r} is a link or a device, expected files and folders "
            "only; nothing was imported."
        )


def _import_folder(
    source: Path, store: RunStore, *, replace: bool, label: Path | None = None
) -> list[StoredRun]:
    runs = [read_run(folder) for folder in RunStore(source).folders()]
    if not runs:
        raise ResultError(
            f"{label or source}: no runs in it; expected folders with {MANIFEST}, as written by "
            "`bench runs export`."
        )
    for run in runs:
        _check_all(run)
    return [_place(run, store, replace=replace) for run in runs]


def _place(run: StoredRun, store: RunStore, *, replace: bool) -> StoredRun:
    """Copy a checked run to its place in ``store``; an older one there stays until it is complete."""
    final = store.run_folder(run.target, run.stored_method, run.seed, run.run_id)
    with lock(store.work_folder(run.run_id), timeout=5.0):
        known = None if replace else store.find(run.target, run.stored_method, run.seed, run.run_id)
        if known is not None:
            if known.manifest["files"] == run.manifest["files"]:
                return known
            raise ResultError(
                f"{final} holds another result of the same run. Remove it first "
                f"(`bench runs rm {run.run_id}`) or ask to replace it."
            )
        with atomic_folder(final, replace=True) as partial, run.reading():
            for name in (MANIFEST, *run.manifest["files"]):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.path / name, partial / name)
    return read_run(final)


def _moved(spec: RunSpec, run: StoredRun) -> dict[str, Any]:
    """The run's settings for which today's profile has other values, by dotted name."""
    with prints_aside(), enclose_import(spec.method, data_root=spec.data_root):
        method_cls = resolve_method(spec.method)
        config = resolve_config(method_cls, profile=spec.profile, overrides=spec.overrides)
    values = config.identity() if isinstance(config, MethodConfig) else config_dict(config)
    now, content = dict(_flat(values)), run.manifest["method"].get("content") or {}
    return {
        key: value
        for key, value in _flat(run.config)
        # Of what is known by its content the manifest has no more than the name.
        if key in now and now[key] != value and key not in content
    }


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def reproduce_spec(run: StoredRun, *, data_root: Path | None = None) -> RunSpec:
    """The specification that repeats a run; execute it with ``force`` or in another store.

    It has the configuration of the run, also if a profile has changed since.

    Raises:
        ConfigError: the manifest's specification is not one that this version understands.
        MissingExtraError: the method needs a package that is absent.
    """
    if run.imported is not None:
        raise ConfigError(
            f"run {run.run_id} is imported: another program computed its scores, and they are not stored "
            "with it. With the file of scores (SHA-256 "
            f"{run.imported['scores_sha256']}) `bench import-scores FILE --name {run.method} --target "
            f"{run.target} --seed {run.seed} --store DIR` evaluates them again under the same run id; how "
            "they came about cannot be repeated here."
        )
    values = dict(run.manifest.get("spec", {}))
    if run.method != run.stored_method:
        values["method"] = run.method
    if values.get("protocol", {}).get("negatives") == "imported":
        raise ConfigError(
            f"run {run.run_id} ranked imported candidates, whose file is not stored with it. Repeat "
            "it with `bench run ... --candidates FILE`; the content hash must be "
            f"{run.manifest['task']['options'].get('candidates_file')}."
        )
    try:
        spec = RunSpec.model_validate({**values, "data_root": data_root})
    except ValidationError as error:
        raise ConfigError(
            f"{run.path}: its specification cannot be used by this version: {error}"
        ) from error
    spec = spec.model_copy(update={"overrides": {**spec.overrides, **_moved(spec, run)}})
    if spec.threads is None and isinstance(used := run.manifest.get("threads"), int):
        # Other numbers of threads round otherwise.
        return spec.model_copy(update={"threads": max(1, min(used, usable_cpus()))})
    return spec
