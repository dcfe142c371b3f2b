"""Find, read, prepare and cache a domain: the one door through which the harness gets its data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench import assets
from bench.data.cache import cached, content_sha256
from bench.data.catalogue import CATALOGUE, GROUPS, namespace_members
from bench.data.domain import Domain
from bench.data.prepare import Ties, check_ties, prepare
from bench.data.raw import OnError, check_on_error
from bench.data.sources import (
    DOWNLOAD_FILE,
    IMPORT_FILE,
    Source,
    data_root_or_env,
    domains_root,
    find_source,
    recorded_files,
    stored_names,
)
from bench.errors import ConfigError, DataError, MissingDataError, unknown_name
from bench.io import StrPath

__all__ = [
    "is_available",
    "known_names",
    "load_domain",
    "missing_domains",
    "namespace_domains",
    "not_found",
    "study_sources",
]

# Who recorded the files of a domain, and what brings them back.
_RECORDS = {
    IMPORT_FILE: "Import {name} again with --replace, also if the change is meant.",
    DOWNLOAD_FILE: "Fetch it again with: bench data download {name}",
    assets.RECORD: "Fetch it again with: bench assets pull --force ml-100k",
}


def load_domain(
    name: str,
    *,
    data_root: StrPath | None = None,
    ties: Ties = "file",
    on_error: OnError = "raise",
) -> Domain:
    """Load a domain by name; prepared once, then memory-mapped from the cache.

    Args:
        name: a catalogue name, or the name of a folder of atomic files or of an imported domain.
        data_root: folder that holds ``NAME/``; None: ``BENCH_DATA_ROOT``, then imported and
            downloaded domains, then the embedded ones.
        ties: order of one user's events of equal time, ``file`` or ``hash``.
        on_error: ``raise`` at the first malformed line, or ``skip`` and count (the counts are in
            ``provenance["counts"]``).

    Raises:
        ConfigError: an unknown name or option.
        MissingDataError: the domain is not on disk.
        DataError: its files are malformed, or not as its import, download or asset recorded them.
        ResultError: what was prepared of it is damaged.
    """
    check_ties(ties)
    check_on_error(on_error)
    data_root = None if data_root is None else Path(data_root)
    source = find_source(name, data_root)
    if source is None:
        raise not_found([name], data_root=data_root)
    hashes = [[file.name, content_sha256(file)] for file in source.files]
    _require_as_recorded(source, hashes)
    key = {
        "name": name,
        "reader": source.reader,
        "files": hashes,
        "k_core": source.k_core,
        "namespace": source.namespace,
        "group": source.group,
        "selection": source.selection,
        "notes": source.notes,
        "ties": ties,
        "on_error": on_error,
    }
    return cached(name, key, lambda: _build(source, hashes, ties, on_error))


def _require_as_recorded(source: Source, hashes: list[list[str]]) -> None:
    """Refuse files that were changed since they were imported, downloaded or unpacked."""
    for record, remedy in _RECORDS.items():
        files = dict(zip(source.files, hashes, strict=True))
        for folder in sorted({file.parent for file in files}):
            recorded = recorded_files(folder / record) if (folder / record).is_file() else {}
            for file, (name, found) in files.items():
                if file.parent == folder and recorded.get(name, found) != found:
                    raise DataError(
                        f"{file}: changed since it was recorded in {record}: SHA-256 {found[:12]}..., "
                        f"recorded is {recorded[name][:12]}.... {remedy.format(name=source.name)}"
                    )


def _build(source: Source, hashes: list[list[str]], ties: Ties, on_error: OnError) -> Domain:
    raw = source.read(on_error)
    files = [
        {"name": name, "sha256": digest, "size": path.stat().st_size}
        for path, (name, digest) in zip(source.files, hashes, strict=True)
    ]
    provenance = {"reader": source.reader, "files": files, **source.selection}
    if source.notes:
        provenance["import"] = source.notes
    return prepare(
        raw,
        name=source.name,
        k_core=source.k_core,
        ties=ties,
        namespace=source.namespace,
        group=source.group,
        provenance=provenance,
        on_missing_item="placeholder" if on_error == "skip" else "raise",
    )


def is_available(name: str, *, data_root: Path | None = None) -> bool:
    """Whether :func:`load_domain` would find files for ``name``."""
    return find_source(name, data_root) is not None


def missing_domains(names: Iterable[str], *, data_root: Path | None = None) -> tuple[str, ...]:
    """Those of ``names`` that are not on disk, in the order given."""
    return tuple(name for name in names if not is_available(name, data_root=data_root))


def known_names(data_root: Path | None = None) -> tuple[str, ...]:
    """Names in the catalogue, then names only found on disk."""
    extra = [name for name in stored_names(data_root) if name not in CATALOGUE]
    return (*CATALOGUE, *extra)


def namespace_domains(namespace: str | None, data_root: Path | None = None) -> tuple[str, ...]:
    """Names of all known domains whose user and item ids share ``namespace``.

    The catalogue's members come first, on disk or not; then, sorted, the domains on disk that were
    imported into the namespace.

    Raises:
        DataError: the record of an imported domain is damaged, so that its namespace is not known.
    """
    if namespace is None:
        return ()
    members = namespace_members(namespace)
    stored = (
        name
        for name, source in _stored_sources(data_root).items()
        if source.namespace == namespace and name not in members
    )
    return (*members, *stored)


def study_sources(name: str, data_root: Path | None = None) -> tuple[str, ...]:
    """Source domains of a target when none are named: the rest of its study group.

    A group holds the catalogue's domains, in its order, then those imported into it, sorted.
    A domain without a group has no such sources.
    """
    stored = _stored_sources(data_root)
    if name in stored:
        group = stored[name].group
    else:
        group = CATALOGUE[name].group if name in CATALOGUE else None
    if group is None:
        return ()
    members = GROUPS.get(group, ())
    imported = (n for n, s in stored.items() if s.group == group and n not in members)
    return tuple(other for other in (*members, *imported) if other != name)


def _stored_sources(data_root: Path | None) -> dict[str, Source]:
    found = ((name, find_source(name, data_root)) for name in stored_names(data_root))
    return {name: source for name, source in found if source is not None}


def not_found(
    names: Iterable[str], *, data_root: Path | None = None
) -> ConfigError | MissingDataError:
    """Build the one error for domains that are not on disk; it names all of them and the ways out.

    Returns:
        A :class:`ConfigError` for a name that nobody knows, else a :class:`MissingDataError`.
    """
    names = list(names)
    for name in names:
        if name not in CATALOGUE:
            return unknown_name("domain", name, known_names(data_root))
    root = data_root_or_env(data_root)
    places = [str(root)] if root is not None else []
    searched = " and ".join([*places, str(domains_root())])
    embedded = [name for name in names if CATALOGUE[name].kind == "embedded"]
    official = [name for name in names if name not in embedded]
    ways = []
    if official:
        ways.append(
            f"download the official files with: bench data download {' '.join(official)}; or point "
            "--data-root (or BENCH_DATA_ROOT) at a folder with NAME/NAME.inter and NAME/NAME.item"
        )
    if embedded:
        ways.append("get the embedded domains with: bench assets pull ml-100k")
    else:
        ways.append("or try the embedded domains (bench assets pull ml-100k), such as ml100k-drama")
    return MissingDataError(
        f"not on this machine: {', '.join(names)} (looked in {searched}). {'; '.join(ways)}."
    )
