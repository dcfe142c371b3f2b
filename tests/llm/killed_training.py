"""``bench`` with the given words, killed in the middle of its second training.

A script of ``test_weaverec_runs.py``: the third optimiser step of the second adapter never comes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

from bench.cli import main
from bench.llm import mixtures
from bench.methods import QuietProgress

TRAIN = mixtures.train_adapter


class Killing(QuietProgress):
    """Kills the process when the third item is asked for."""

    def track(self, items: Iterable[Any], *args: Any, **options: Any) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def train(*args: Any, n_before: list[int] = [0], **options: Any) -> Any:  # noqa: B006  (a counter)
    n_before[0] += 1
    if n_before[0] == 2:
        options |= {"progress": Killing(), "checkpoint_seconds": 0.0}
    return TRAIN(*args, **options)


if __name__ == "__main__":
    mixtures.train_adapter = train
    main()
