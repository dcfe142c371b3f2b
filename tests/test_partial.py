"""Folders that take the place of others, and what killed processes leave under construction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from bench import partial
from bench.errors import ResultError
from bench.io import atomic_folder, write_bytes
from bench.partial import PARTIAL, atomic_file, discard, older, partial_folder, settled, sweep


def put(path: Path, text: str) -> None:
    with atomic_folder(path, replace=True) as folder:
        (folder / "file").write_text(text)


@pytest.fixture(params=["swapped", "renamed twice"])
def way(request, monkeypatch) -> str:
    if request.param == "renamed twice":
        monkeypatch.setattr(partial, "_exchange", lambda _one, _other: False)
    return request.param


def test_a_replaced_folder_is_the_new_one_and_leaves_nothing(tmp_path, way):
    for text in ("one", "two", "three"):
        put(tmp_path / "it", text)
        assert (tmp_path / "it" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are swapped on Linux only")
def test_readers_always_see_a_folder_that_is_replaced(tmp_path):
    put(tmp_path / "it", "0")
    absent, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if not (tmp_path / "it").exists():
                absent.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        put(tmp_path / "it", str(number))
    stop.set()
    reader.join()
    assert not absent


def test_an_older_folder_is_put_back_when_the_new_one_cannot_be_renamed(tmp_path, monkeypatch, way):
    put(tmp_path / "it", "old")
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2 or way == "swapped":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    if way == "swapped":
        put(tmp_path / "it", "new")
        assert not calls
        return
    with pytest.raises(OSError, match="no"):
        put(tmp_path / "it", "new")
    assert (tmp_path / "it" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_an_older_folder_whose_replacement_never_came_is_found_and_goes_with_the_next(tmp_path):
    put(tmp_path / "it", "old")
    (tmp_path / "it").rename(older(tmp_path / "it"))
    assert (settled(tmp_path / "it") / "file").read_text() == "old"
    put(tmp_path / "it", "new")
    assert settled(tmp_path / "it") == tmp_path / "it"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    put(tmp_path / "it", "old")
    with pytest.raises(ResultError, match="already exists"), atomic_folder(tmp_path / "it"):
        pass
    assert (tmp_path / "it" / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_to_a_folder_is_replaced_and_the_folder_stays(tmp_path):
    put(tmp_path / "elsewhere", "old")
    (tmp_path / "it").symlink_to(tmp_path / "elsewhere")
    put(tmp_path / "it", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "it"]
    assert (tmp_path / "elsewhere" / "file").read_text() == "old"


def test_a_discarded_folder_is_gone_at_once(tmp_path):
    put(tmp_path / "it", "old")
    discard(tmp_path / "it")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "it")


def test_a_file_that_fails_leaves_the_older_one(tmp_path):
    write_bytes(tmp_path / "it", b"old")
    with pytest.raises(OSError, match="no"), atomic_file(tmp_path / "it") as stream:
        stream.write(b"ne")
        raise OSError("no")
    assert (tmp_path / "it").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sweep_removes_what_nobody_works_on(tmp_path):
    (tmp_path / f"{PARTIAL}folder").mkdir()
    (tmp_path / f"{PARTIAL}folder" / "file").touch()
    (tmp_path / f"{PARTIAL}file").touch()
    (tmp_path / ".partial-another-program").touch()
    with partial_folder(tmp_path) as folder, atomic_file(tmp_path / "file") as stream:
        stream.write(b"x")
        assert sweep(tmp_path) == []
        assert folder.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".partial-another-program", "file"]


def test_a_sweep_of_names_without_locks_waits_for_a_day(tmp_path):
    old, young = tmp_path / "import-old", tmp_path / "import-young"
    for path in (old, young):
        path.mkdir()
    os.utime(old, (1, 1))
    assert sweep(tmp_path, ["import-*"]) == [old]
    assert young.is_dir()


def test_what_a_killed_process_left_is_swept_at_the_next_use(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from bench.io import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]) / 'it') as folder:\n"
        "    (folder / 'file').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"{PARTIAL}*/file"))) == 1
    put(tmp_path / "it", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_who_is_swept_before_the_lock_is_held_begins_again(tmp_path, monkeypatch):
    hold, calls = partial._hold, []

    def late(handle: int | None, path: str | Path) -> bool:
        calls.append(path)
        if len(calls) == 1:
            assert sweep(tmp_path) == [Path(path)]
        return hold(handle, path)

    monkeypatch.setattr(partial, "_hold", late)
    put(tmp_path / "it", "new")
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("write", [lambda p: write_bytes(p, b"x"), lambda p: put(p, "x")])
def test_a_refusal_names_what_was_to_be_written(tmp_path, monkeypatch, write):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", f"{tmp_path}/{PARTIAL}x")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError) as caught:
        write(tmp_path / "it")
    assert Path(caught.value.filename) in (tmp_path / "it", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names there")
def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path):
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to(os.devnull)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"text")
    reader.join(timeout=30)
    write_bytes(device, b"text")
    assert read == [b"text"]
    assert pipe.is_fifo()
    assert device.is_symlink()
    assert sorted(tmp_path.iterdir()) == [device, pipe]


def test_standard_output_has_a_name_that_stays():
    write = "from bench.io import write_bytes; from pathlib import Path; "
    write += "write_bytes(Path('/dev/stdout'), b'text')"
    done = subprocess.run([sys.executable, "-c", write], capture_output=True, check=True)
    assert done.stdout == b"text"
    assert Path("/dev/stdout").is_symlink()


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path):
    (tmp_path / "it").write_text("mine")
    with pytest.raises(NotADirectoryError, match="it"):
        put(tmp_path / "it", "other")
    assert (tmp_path / "it").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
