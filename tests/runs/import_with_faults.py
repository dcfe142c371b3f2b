"""Import a run over a stored one with a fault at its N-th write, for N = 1, 2, ...; then repeat it.

Run as a script by ``test_import_faults.py``. The fault is SIGKILL or an error of the system; see
``kill_at_write.py``, which counts the writes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from kill_at_write import arm, in_child, kill

from bench import partial
from bench.errors import ResultError
from bench.runs.archive import import_runs
from bench.runs.store import RunStore


def failing(name: str):
    """Raise the error of that name."""
    number = getattr(errno, name)

    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def main() -> None:
    options = json.loads(sys.argv[1])
    archive, older = Path(options["archive"]), Path(options["older"])
    if not options["swap"]:
        partial._exchange = lambda _one, _other: False
    fault = kill if options["fault"] == "SIGKILL" else failing(options["fault"])
    at, completed = 0, False
    while not completed:
        at += 1
        store = RunStore(Path(options["root"]) / f"fault-{at}")
        shutil.copytree(older, store.root)
        finished = Path(options["root"]).with_name(f"finished-{at}")

        def attempt(store: RunStore = store, at: int = at, finished: Path = finished) -> None:
            count = arm(at, store.root, fault)
            try:
                import_runs(archive, store, replace=True)
            except (OSError, ResultError):
                assert count[0] >= at, "failed without a fault"
            if count[0] < at:
                finished.touch()

        status = in_child(attempt)
        assert status in (0, -signal.SIGKILL), f"fault {at}: ended with {status}"
        completed = finished.exists()

        def check(store: RunStore = store) -> None:
            (run,) = store.list()
            for name in ("", *run.sets):
                run.outcomes(name or None)
            assert run.manifest["files"] in (options["old"], options["new"])
            (again,) = import_runs(archive, store, replace=True)
            assert again.manifest["files"] == options["new"]
            (only,) = store.list()
            assert only.path == again.path
            store.clean()
            left = [p.name for p in store.root.rglob("*") if p.name.startswith((".par", ".repl"))]
            left += [p.name for p in (store.root / ".work").iterdir()]
            assert not left, f"left behind: {left}"

        assert in_child(check) == 0, f"fault {at}: the store is not whole"
        shutil.rmtree(store.root)
    print(json.dumps({"writes": at - 1}))


if __name__ == "__main__":
    main()
