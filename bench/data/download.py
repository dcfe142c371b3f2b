"""Fetch official files: resumed after a break, checked by size and SHA-256, renamed when complete.

While a file is under way it is called ``NAME.partial``, beside ``NAME.partial.json`` with the address
and the server's validator (ETag or Last-Modified). A later call goes on from there when the server
still offers the same file, and starts again when it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tenacity

from bench.data.catalogue import CatalogueEntry, RemoteFile
from bench.data.sources import DOWNLOAD_FILE, domains_root
from bench.errors import BenchError, ConfigError, DataError, ResultError
from bench.io import lock, read_json, require_free_space, sha256_file, write_json

__all__ = ["Progress", "download", "fetch"]

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes on disk so far and the total (None: unknown)."""

_BLOCK = 1 << 16
_RETRY_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_TIMEOUT = httpx.Timeout(60.0, connect=30.0)


class _RetryableError(Exception):
    """A failure that another attempt may mend."""


@dataclass(slots=True)
class _Transfer:
    """State of one file over all attempts."""

    file: RemoteFile
    target: Path
    progress: Progress | None
    restarted: bool = False
    received: int = 0
    barren: int = 0

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    @property
    def record(self) -> Path:
        return self.target.with_name(self.target.name + ".partial.json")

    def discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


def download(
    entry: CatalogueEntry,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    wait_seconds: float = 1.0,
    client: httpx.Client | None = None,
) -> Path:
    """Download all official files of a domain; files that are there and checked are left alone.

    Args:
        entry: what to download.
        folder: where to; default ``cache_root()/domains/NAME``, where ``load_domain`` looks.
        progress: called while bytes arrive.
        attempts: how many attempts in a row may fail without one new byte.
        wait_seconds: first pause between attempts; doubles up to 30 times as much.
        client: HTTP client; default: a new one with time-outs that follows redirects.

    Returns:
        The folder.

    Raises:
        ConfigError: the entry is embedded and has nothing to download.
        DataError: an address is gone, or a file differs from the catalogue's size or SHA-256.
        BenchError: the network failed for good (what arrived is kept), or the disk is full.
    """
    if not entry.files:
        raise ConfigError(
            f"{entry.name} has no files of its own: it is part of an asset. "
            "Get it with: bench assets pull ml-100k"
        )
    folder = folder if folder is not None else domains_root() / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    own = client is None
    session = client or httpx.Client(timeout=_TIMEOUT, follow_redirects=True)
    try:
        with lock(folder / DOWNLOAD_FILE):
            done = _known(folder)
            for file in entry.files:
                if not _is_complete(folder / file.name, file, done.get(file.name)):
                    done[file.name] = fetch(
                        file,
                        folder / file.name,
                        client=session,
                        progress=progress,
                        attempts=attempts,
                        wait_seconds=wait_seconds,
                        homepage=entry.homepage,
                    )
                    write_json(folder / DOWNLOAD_FILE, {"domain": entry.name, "files": done})
    finally:
        if own:
            session.close()
    return folder


def _known(folder: Path) -> dict[str, Any]:
    try:
        files = read_json(folder / DOWNLOAD_FILE)["files"]
        return dict(files)
    except (ResultError, KeyError, TypeError, ValueError):
        return {}


def _is_complete(path: Path, file: RemoteFile, recorded: Any) -> bool:
    if not path.is_file():
        return False
    size = path.stat().st_size
    if file.sha256 is not None:
        return (file.size is None or size == file.size) and sha256_file(path) == file.sha256
    known = isinstance(recorded, dict) and recorded.get("size") == size
    return known and recorded.get("sha256") == sha256_file(path)


def fetch(
    file: RemoteFile,
    target: Path,
    *,
    client: httpx.Client,
    progress: Progress | None = None,
    attempts: int = 5,
    wait_seconds: float = 1.0,
    homepage: str = "",
) -> dict[str, Any]:
    """Download one file to ``target``, atomically.

    Returns:
        Address, size, SHA-256 and validator, as recorded in ``download.json``.

    Raises:
        DataError: the address is gone, or size or SHA-256 differ (the wrong file is removed).
        BenchError: no attempt got further; the part that arrived is kept for the next call.
    """
    transfer = _Transfer(file, target, progress)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_RetryableError),
        stop=lambda _state: transfer.barren >= attempts,
        wait=tenacity.wait_exponential(multiplier=wait_seconds, max=30 * wait_seconds),
        reraise=True,
    )
    try:
        found: dict[str, Any] = retrying(_attempt, transfer, client, homepage)
    except _RetryableError as error:
        kept = transfer.partial.stat().st_size if transfer.partial.is_file() else 0
        raise BenchError(
            f"{file.url}: {error} ({attempts} attempts without progress). {kept} bytes are kept in "
            f"{transfer.partial}; check the network and run the command again to go on from there."
        ) from error
    return found


def _attempt(transfer: _Transfer, client: httpx.Client, homepage: str) -> dict[str, Any]:
    """Get the missing bytes, then check and rename."""
    before = transfer.received
    try:
        _receive(transfer, client, homepage)
    except httpx.TransportError as error:
        transfer.barren = 0 if transfer.received > before else transfer.barren + 1
        raise _RetryableError(f"connection failed ({type(error).__name__}: {error})") from error
    except _RetryableError:
        transfer.barren = 0 if transfer.received > before else transfer.barren + 1
        raise
    return _finish(transfer)


def _receive(transfer: _Transfer, client: httpx.Client, homepage: str) -> None:
    state = _resumable(transfer)
    offset = transfer.partial.stat().st_size if state is not None else 0
    # "identity": a server that compresses on the fly would make sizes and ranges meaningless.
    headers = {"Accept-Encoding": "identity"}
    if state is not None:
        headers["Range"] = f"bytes={offset}-"
        if state["validator"] and not state["validator"].startswith("W/"):
            headers["If-Range"] = state["validator"]
    with client.stream("GET", transfer.file.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            transfer.discard()
            raise _RetryableError("the server has no bytes beyond the part already here")
        if response.status_code in _RETRY_STATUS:
            raise _RetryableError(f"the server answered {response.status_code}")
        if not response.is_success:
            raise DataError(
                f"{transfer.file.url}: the server answered {response.status_code}; expected the "
                f"file. It may have moved: see {homepage or 'the official page'}, download it by "
                f"hand and put it at {transfer.target}."
            )
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        total = _total(response, offset if resumed else 0)
        validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
        if resumed and not _fits(response, state, offset, total, validator):
            transfer.discard()
            raise _RetryableError("the file changed on the server; starting again")
        if not resumed:
            offset = 0
        _check_announced(transfer, total)
        write_json(
            transfer.record, {"url": transfer.file.url, "validator": validator, "total": total}
        )
        _write(transfer, response, offset, total)


def _resumable(transfer: _Transfer) -> dict[str, Any] | None:
    """What the partial file belongs to, or None if there is nothing to go on from."""
    if not transfer.partial.is_file() or transfer.partial.stat().st_size == 0:
        return None
    try:
        state = read_json(transfer.record)
        if state["url"] == transfer.file.url and (state["validator"] or state["total"]):
            return {"validator": str(state["validator"]), "total": state["total"]}
    except (ResultError, KeyError, TypeError):
        pass
    transfer.discard()
    return None


def _total(response: httpx.Response, offset: int) -> int | None:
    """Size of the whole file as the server announces it, or None."""
    stated = response.headers.get("content-range", "").rpartition("/")[2]
    if stated.isdigit():
        return int(stated)
    length = response.headers.get("content-length", "")
    return int(length) + offset if length.isdigit() else None


def _fits(
    response: httpx.Response,
    state: dict[str, Any] | None,
    offset: int,
    total: int | None,
    validator: str,
) -> bool:
    """Whether a partial answer continues exactly the bytes on disk."""
    if state is None or state["total"] != total or state["validator"] != validator:
        return False
    return bool(response.headers.get("content-range", "").startswith(f"bytes {offset}-"))


def _check_announced(transfer: _Transfer, total: int | None) -> None:
    expected = transfer.file.size
    if expected is not None and total is not None and total != expected:
        transfer.discard()
        raise DataError(
            f"{transfer.file.url}: the server announces {total} bytes; expected {expected}. The "
            "official file changed: check the official page, and update the catalogue entry."
        )
    if total is not None:
        require_free_space(transfer.target.parent, total)


def _write(transfer: _Transfer, response: httpx.Response, offset: int, total: int | None) -> None:
    size = offset
    with transfer.partial.open("r+b" if offset else "wb") as sink:
        sink.seek(offset)
        for block in response.iter_raw(_BLOCK):
            sink.write(block)
            size += len(block)
            transfer.received += len(block)
            if transfer.progress is not None:
                transfer.progress(transfer.file.name, size, total)
        sink.truncate()
    if total is not None and size < total:
        raise _RetryableError(f"the connection ended after {size} of {total} bytes")


def _finish(transfer: _Transfer) -> dict[str, Any]:
    """Check size and SHA-256, then give the file its name."""
    file, size = transfer.file, transfer.partial.stat().st_size
    digest = sha256_file(transfer.partial)
    wrong = ""
    if file.size is not None and size != file.size:
        wrong = f"{size} bytes; expected {file.size}"
    elif file.sha256 is not None and digest != file.sha256:
        wrong = f"SHA-256 {digest}; expected {file.sha256}"
    if wrong:
        transfer.discard()
        raise DataError(
            f"{file.url}: the downloaded file has {wrong}. It was removed; run the command again, "
            "and if it happens again check the official page for a new version."
        )
    found = read_json(transfer.record)
    transfer.partial.replace(transfer.target)
    transfer.record.unlink(missing_ok=True)
    return {
        "url": file.url,
        "size": size,
        "sha256": digest,
        "validator": found["validator"],
    }
