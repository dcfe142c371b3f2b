"""A folder or a zip file as one thing: named members that are streamed, never extracted."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from bench.data.readers.lines import open_source
from bench.errors import DataError

__all__ = ["Place", "open_place"]


@dataclass(frozen=True, slots=True)
class Place:
    """Members by their bare file name.

    Attributes:
        path: the folder or the zip file.
        members: bare name -> file inside a folder (path), or member name inside a zip file.
    """

    path: Path
    members: dict[str, str]

    def label(self, name: str) -> str:
        """How messages name a member: a path, or ``archive.zip!member``."""
        member = self.members[name]
        return f"{self.path}!{member}" if self.path.is_file() else str(self.path / member)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member for reading bytes.

        Raises:
            DataError: the member is damaged, encrypted or unreadable.
        """
        if not self.path.is_file():
            with open_source(self.path / self.members[name]) as stream:
                yield stream
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as e:
            raise DataError(
                f"{self.label(name)}: damaged or encrypted archive member ({e}); expected a readable "
                "zip file. Delete it and download it again."
            ) from e


def open_place(path: Path, names: frozenset[str]) -> Place:
    """List those of ``names`` that a folder or zip file holds.

    Args:
        path: a folder (its own files), or a zip file (members in any folder inside it).
        names: bare file names.

    Raises:
        DataError: not a folder or zip file; a member's name that leaves the archive; one name twice.
    """
    if path.is_dir():
        return Place(path, {name: name for name in sorted(names) if (path / name).is_file()})
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such folder or zip file; check the path.") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path}: not a readable zip file ({error}); expected a folder or a zip file. "
            "Delete it and download it again."
        ) from error
    found: dict[str, str] = {}
    for member in members:
        parts = PurePosixPath(member.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise DataError(
                f"{path}: member {member!r} points outside the archive; expected plain relative "
                "names. Do not use this file; download it from the official address."
            )
        if parts.name not in names or "__MACOSX" in parts.parts:
            continue
        if parts.name in found:
            raise DataError(
                f"{path}: {parts.name} occurs twice ({found[parts.name]}, {member}); expected one "
                "data set per archive. Unpack it and name the folder instead."
            )
        found[parts.name] = member
    return Place(path, found)
