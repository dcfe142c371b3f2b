"""Silence for calls into transformers: its log lines and progress bars, for the time of a block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet_transformers"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show errors only and no bars; the caller's settings are put back afterwards."""
    from huggingface_hub import utils
    from transformers.utils import logging

    hub: Any = utils
    verbosity = logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    _set_bars(False, False)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        _set_bars(bars, hub_bars)


def _set_bars(bars: bool, hub_bars: bool) -> None:
    from huggingface_hub import utils
    from transformers.utils import logging

    hub: Any = utils
    with warnings.catch_warnings():
        # HF_HUB_DISABLE_PROGRESS_BARS has the last word, as it should.
        warnings.filterwarnings("ignore", message="Cannot (en|dis)able progress bars")
        # transformers' switches turn the hub's along with their own: the hub's come last.
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
