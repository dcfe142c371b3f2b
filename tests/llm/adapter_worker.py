"""Processes of ``test_adapters.py``: trainings that can be killed.

``adapter_worker.py ROOT LOG train STEPS SECONDS`` trains one adapter with a checkpoint after every step;
``adapter_worker.py FOLDER - kill-everywhere`` kills a forked training before its n-th change to the
disk, for n = 1, 2, ..., and looks at what it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from bench.errors import ResultError
from bench.llm.adapter_files import CONFIG, WEIGHTS
from bench.llm.adapters import AdapterSpec, AdapterStore, MixturePart
from bench.methods import QuietProgress

SPEC = AdapterSpec(
    backbone="toy",
    backbone_hash="b" * 64,
    mixture=(MixturePart(domain="beauty", training_hash="1" * 64, n_examples=400),),
    objective="sequence",
    template_hash="t" * 64,
    lora={"r": 2},
    training={"epochs": 1},
    trainer_version=1,
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod")


def training(log: Path | None, steps: int, seconds: float):
    def make(out: Path, checkpoints: Path):
        mark = checkpoints / "step"
        first = int(mark.read_text()) + 1 if mark.exists() else 1
        for step in range(first, steps + 1):
            time.sleep(seconds)
            if log is not None:
                with log.open("a") as stream:
                    stream.write(f"step {step}\n")
            partial = checkpoints / "partial"
            partial.write_text(str(step))
            partial.replace(mark)
        (out / CONFIG).write_text("{}")
        (out / WEIGHTS).write_bytes(b"weights")
        return {"steps": steps}

    return make


class Status(QuietProgress):
    """Remembers that it had to wait."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def status(self, text: str) -> None:
        self.said.append(text.split()[0])


def train(root: Path, log: Path, steps: int, seconds: float) -> None:
    store, progress = AdapterStore(root), Status()
    store.obtain(SPEC, training(log, steps, seconds), progress=progress)
    print(json.dumps({"trained_now": store.used[0].trained_now, "status": progress.said}))


def arm(kill_at: int, root: Path) -> list[int]:
    """Kill this process before its ``kill_at``-th change below ``root``."""
    count = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            hit = isinstance(path, str) and isinstance(flags, int) and bool(flags & _WRITING)
            paths = [path] if hit else []
        else:
            paths = list(arguments[:2]) if event in _CHANGES else []
        if any(str(path).startswith(str(root)) for path in paths if isinstance(path, str | Path)):
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def in_child(work) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_everywhere(folder: Path) -> None:
    kill_at = 1
    while True:
        root = folder / f"kill-{kill_at}"

        def attempt(root: Path = root, kill_at: int = kill_at) -> None:
            count = arm(kill_at, root)
            AdapterStore(root).obtain(SPEC, training(None, 2, 0.0))
            (folder / "writes").write_text(str(count[0]))

        status = in_child(attempt)
        if status == 0:
            break
        if status != -signal.SIGKILL:
            raise SystemExit(f"kill at {kill_at}: ended with {status}")

        def finish(root: Path = root) -> None:
            store = AdapterStore(root)
            try:
                for adapter in store.list():
                    assert store.find(adapter.adapter_id) is not None
            except ResultError as error:
                raise SystemExit(f"half an adapter: {error}") from error
            found = store.obtain(SPEC, training(None, 2, 0.0))
            assert (found.folder / WEIGHTS).read_bytes() == b"weights"
            assert [f.name for f in root.iterdir() if f.name != ".work"] == [SPEC.adapter_id]
            assert [f for f in (root / ".work").iterdir() if f.is_dir()] == []

        if in_child(finish):
            raise SystemExit(f"kill at {kill_at}: the next training failed")
        kill_at += 1
    print(json.dumps({"writes": int((folder / "writes").read_text()), "last": kill_at}))


if __name__ == "__main__":
    place, log_name, verb, *rest = sys.argv[1:]
    if verb == "train":
        train(Path(place), Path(log_name), int(rest[0]), float(rest[1]))
    else:
        kill_everywhere(Path(place))
