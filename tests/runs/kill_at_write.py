"""Kill a run with SIGKILL at its N-th write, for N = first, first + step, ...; then finish it.

Run as a script by ``test_kill.py``. Each attempt is a forked child in which an audit hook counts what
changes the disk (files opened for writing, renames, new and removed names) and every fsync, and kills
the process just before the N-th of them. A second child then reads the store and repeats the run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import partial
from bench.runs.environment import git_revision
from bench.runs.runner import execute
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.runs.stored import read_manifest

_CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fault_at: int, root: Path, fault: Callable[[], None] = kill) -> list[int]:
    """Count changes below ``root`` from now on; ``fault`` happens before the ``fault_at``-th."""
    count = [0]

    def hit() -> None:
        count[0] += 1
        if count[0] == fault_at:
            fault()

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | os.PathLike) and flags & _WRITING and _inside(path, root):
                hit()
        elif event in _CHANGES and any(_inside(a, root) for a in arguments[:2]):
            hit()

    sync = os.fsync

    def counted_sync(handle: int) -> None:
        hit()
        sync(handle)

    exchange = partial._exchange

    def counted_exchange(one: Path, other: Path) -> bool:
        hit()
        return exchange(one, other)

    partial._exchange = counted_exchange
    os.fsync = counted_sync
    sys.addaudithook(hook)
    return count


def _inside(path: object, root: Path) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, str | os.PathLike) and str(path).startswith(str(root))


def in_child(work) -> int:
    """Run ``work`` in a forked child; return its exit status (negative = signal)."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def check_after_kill(store: RunStore, before: dict) -> None:
    """What a reader sees after a kill: nothing, or a whole run."""
    for run in store.list():
        run.outcomes()
        for digest in run.sets:
            run.outcomes(digest)
        assert read_manifest(run.path)["status"] == "done"
    assert store.list() or not before["replacing"], "the old run is lost"


def main() -> None:
    options = json.loads(sys.argv[1])
    # Forked children inherit what is asked once per process.
    git_revision()
    if not options["swap"]:
        partial._exchange = lambda _one, _other: False
    root = Path(options["root"])
    force = options["force"]
    spec = RunSpec.model_validate(options["spec"])
    reference = options["per_user_sha256"]
    writes = 0
    kill_at = options["first"]
    while True:
        store = RunStore(root / f"kill-{kill_at}")
        before = {"replacing": force}
        if force and in_child(lambda s=store: execute(spec, s, checkpoint_seconds=0.0)):
            raise SystemExit("the first run failed")

        def attempt(store: RunStore = store, kill_at: int = kill_at) -> None:
            count = arm(kill_at, store.root)
            execute(spec, store, force=force, checkpoint_seconds=0.0)
            (root / "writes").write_text(str(count[0]))

        status = in_child(attempt)
        if status == 0:
            writes = int((root / "writes").read_text())
            break
        if status != -signal.SIGKILL:
            raise SystemExit(f"kill at {kill_at}: the attempt ended with {status}")

        def finish(store: RunStore = store, before: dict = before) -> None:
            check_after_kill(store, before)
            run = execute(spec, store, checkpoint_seconds=0.0)
            assert run.manifest["files"]["per_user.parquet"] == reference, "other outcomes"
            assert len(store.list()) == 1
            assert [p for p in (store.root / ".work").iterdir() if p.is_dir()] == []
            left = list(store.root.rglob(".partial-*"))
            store.clean()
            left += store.root.rglob(".replaced-*")
            assert not left, f"left behind: {left}"

        if in_child(finish):
            raise SystemExit(f"kill at {kill_at}: the repeated run failed")
        kill_at += options["step"]
    print(json.dumps({"writes": writes, "last": kill_at}))


if __name__ == "__main__":
    main()
