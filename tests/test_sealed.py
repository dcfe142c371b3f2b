"""Folders that are made once are used as they were written, or refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench import sealed
from bench.errors import ConfigError, ResultError
from bench.io import lock, sha256_file
from bench.sealed import clean, difference, entries, intact, locate, remove, seal


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    made = tmp_path / "text-vectors" / "it-1"
    (made / "inner").mkdir(parents=True)
    (made / "one").write_bytes(b"1" * 100)
    (made / "inner" / "two").write_bytes(b"2")
    seal(made)
    return made


def test_what_was_written_is_intact_and_read_once(folder):
    read = []

    def digest(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    assert intact(folder, digest=digest) and intact(folder, digest=digest)
    assert sorted(read) == ["one", "two"]


@pytest.mark.parametrize("name", ["one", "inner/two"])
def test_a_flipped_bit_is_found_also_after_a_first_use(folder, name):
    assert intact(folder)
    content = bytearray((folder / name).read_bytes())
    content[0] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ResultError, match=f"{name} was changed.*bench cache rm it-1"):
        intact(folder)


def test_a_missing_file_is_found(folder):
    (folder / "one").unlink()
    with pytest.raises(ResultError, match="one is missing"):
        intact(folder)


def test_what_is_not_there_or_not_sealed_is_not_intact(folder):
    (folder / "seal.json").unlink()
    assert not intact(folder)
    shutil.rmtree(folder)
    assert not intact(folder)


def test_a_folder_that_is_removed_meanwhile_is_gone_and_not_damaged(folder):
    def digest(path: Path) -> str:
        remove(folder)
        raise FileNotFoundError(path)

    assert not intact(folder, digest=digest)


def test_a_folder_of_an_earlier_version_is_judged_by_its_own_record(folder):
    (folder / "seal.json").unlink()
    with pytest.raises(ResultError, match="one was changed"):
        intact(folder, recorded=lambda: {"one": "0" * 64})
    with pytest.raises(ResultError, match="record of checksums cannot be read"):
        intact(folder, recorded=lambda: {}["sha256"])
    assert intact(folder, recorded=lambda: {"one": sha256_file(folder / "one")})
    assert (folder / "seal.json").is_file()


def test_difference_names_the_first_file(folder):
    digests = {"one": sha256_file(folder / "one"), "three": "0" * 64}
    assert difference(folder, digests) == "three is missing"
    assert difference(folder, {"one": digests["one"]}) == ""


def test_entries_are_found_and_removed_by_name(folder):
    assert entries()["text-vectors"] == [folder]
    assert set(entries()) == set(sealed.KINDS)
    with pytest.raises(ConfigError, match="Did you mean 'it-1'"):
        locate("it-2")
    remove(locate("it-1"))
    assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == []


def test_what_was_left_under_construction_is_removed_unless_in_use(folder, tmp_path):
    stages = tmp_path / "pretraining"
    left = [
        folder.parent / ".partial-bench-a",
        tmp_path / "assets" / ".partial-bench-b",
        stages / "m-1.work",
    ]
    earlier, busy = folder.parent / ".partial-c", stages / "m-2.work"
    for path in (*left, earlier, busy):
        path.mkdir(parents=True)
    os.utime(earlier, (1, 1))
    with lock(stages / "m-2"):
        assert sorted(clean()) == sorted([*left, earlier])
    assert busy.is_dir() and intact(folder)
