"""Remove and import a run of a store again and again, until a file appears. Run as a script."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.runs.archive import import_runs
from bench.runs.store import RunStore


def main() -> None:
    root, archive, stop = (Path(word) for word in sys.argv[1:])
    store = RunStore(root)
    turns = 0
    while not stop.exists():
        (run,) = import_runs(archive, store, replace=True)
        import_runs(archive, store, replace=True)
        store.remove(run.run_id)
        turns += 1
    print(turns)


if __name__ == "__main__":
    main()
