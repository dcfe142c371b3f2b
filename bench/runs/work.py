"""A run in progress on disk: what survives a kill, so that a restarted run goes on.

The folder ``<store>/.work/<run id>`` holds the method's scratch folder, the log, the state of the
attempt, the fitted model once fitting is done, and the outcomes of the chunks already scored. It is
only touched by the process that holds the run's lock, and is removed when the run is stored.
"""

from __future__ import annotations

import hmac
import io
import json
import logging
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError
from bench.evaluation import Outcomes
from bench.io import hash_arrays, read_json, write_bytes, write_json
from bench.runs.records import jsonable
from bench.runs.stored import LOG, MODEL

__all__ = ["Work"]

_STATE, _SECRET = "state.json", "secret.json"
_SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class Work:
    """The work folder of one run.

    Attributes:
        folder: ``<store>/.work/<run id>``.
    """

    folder: Path

    @property
    def scratch(self) -> Path:
        """The method's private folder."""
        return self.folder / "scratch"

    @property
    def model(self) -> Path:
        """The fitted model, present once fitting is complete."""
        return self.folder / MODEL

    @property
    def result(self) -> Path:
        """The complete run folder before it is moved to its place."""
        return self.folder / "result"

    @property
    def ranks(self) -> tuple[Path, ...]:
        """What in the folder tells ranks, or the candidates that they are compared with."""
        return (self._part("").parent, self.result, self.folder / _SECRET)

    @property
    def log_path(self) -> Path:
        """Log of all attempts."""
        return self.folder / LOG

    def open(self, *, anew: bool) -> dict[str, Any]:
        """Create the folder, or empty it when ``anew``, and return the state of earlier attempts."""
        if anew:
            self.clear()
        self.scratch.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.result, ignore_errors=True)
        try:
            state = read_json(self.folder / _STATE)
        except ResultError:
            return {}
        return state if isinstance(state, dict) else {}

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Record the state of this attempt."""
        write_json(self.folder / _STATE, jsonable(state))

    def clear(self) -> None:
        """Remove the folder and everything in it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def drop_progress(self) -> None:
        """Remove everything but the log of a run that failed by itself."""
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self.log_path:
                path.unlink()

    def secret_seed(self) -> int:
        """A number that nobody can guess, the same for all attempts at a run."""
        path = self.folder / _SECRET
        try:
            return int(read_json(path), 16)
        except (ResultError, TypeError, ValueError):
            # A text: integers of more than 64 bits are read from no file.
            write_json(path, secrets.token_hex(16))
            return int(read_json(path), 16)

    def _part(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.npz"

    def save_part(
        self, name: str, outcomes: Outcomes, diagnostics: Mapping[str, Any], secret: int
    ) -> None:
        """Keep the outcomes of the first rows of a request set, signed with the run's secret."""
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(jsonable(diagnostics)).encode(), dtype=np.uint8)
        columns: dict[str, Any] = {**outcomes.to_columns(), "diagnostics": text}
        columns[_SIGNATURE] = _signature(columns, secret)
        np.savez(buffer, **columns)
        write_bytes(self._part(name), buffer.getvalue())

    def load_part(self, name: str, secret: int) -> tuple[Outcomes, dict[str, Any]] | None:
        """Outcomes of the rows scored by an earlier attempt; None if there are none of its making."""
        try:
            with np.load(self._part(name), allow_pickle=False) as archive:
                columns = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            return None
        signature = columns.pop(_SIGNATURE, None)
        # A method can write into the folder: outcomes that it made up are not taken for scored ones.
        if signature is None or not hmac.compare_digest(
            signature.tobytes(), _signature(columns, secret).tobytes()
        ):
            return None
        text = columns.pop("diagnostics")
        return Outcomes.from_columns(columns), json.loads(text.tobytes())

    def drop_parts(self) -> None:
        """Forget the outcomes of earlier attempts."""
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    @contextmanager
    def logger(self) -> Iterator[logging.Logger]:
        """A logger of its own, not registered globally, that appends to the log file (UTC times)."""
        log = logging.Logger("bench.run", level=logging.INFO)
        handler = logging.FileHandler(self.log_path, encoding="utf-8")
        formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        log.addHandler(handler)
        try:
            yield log
        finally:
            log.removeHandler(handler)
            handler.close()


def _signature(columns: Mapping[str, Any], secret: int) -> NDArray[np.uint8]:
    """HMAC-SHA256 of named arrays, uint8, shape ``(32,)``."""
    key = secret.to_bytes(16, "little")
    digest = hmac.digest(key, hash_arrays(columns).encode(), "sha256")
    return np.frombuffer(digest, dtype=np.uint8)
