"""Several processes for one command: one leads, the others help if all are needed.

``python -m torch.distributed.run -m bench ...`` (and ``accelerate launch``, which starts the same)
runs a command in several processes. Process 0 executes it as if it were alone: it alone takes
locks, writes and prints, and it decides what is stored and what is done. The others execute
nothing; they wait, and when process 0 reaches work for all (:func:`everywhere`: the training of an
adapter), they are told what it is and do it together.

No wait is without a limit: the others watch for a sign of life of process 0, an exchange within the
work fails after :data:`LIMIT`, and what fails in one process fails in all (:meth:`Processes.jointly`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from bench.errors import BenchError, MethodError
from bench.memory import release_accelerators
from bench.process import launched

__all__ = [
    "LIMIT",
    "LostProcessError",
    "Processes",
    "everywhere",
    "processes",
    "run_as_one",
]

LIMIT = timedelta(minutes=30)
"""How long one exchange between the processes may take: loading a large model is the longest."""

_SILENCE, _BEAT, _POLL, _GOODBYE = 300.0, 5.0, 0.2, 10.0
_END, _WORK = "end", "work"
_R = TypeVar("_R")


class LostProcessError(BaseException):
    """A process ended or did not answer: what all do together cannot go on in any of them.

    No ``Exception``, so that nothing records a failed run and goes on with the next one.
    """


@dataclass(slots=True)
class Processes:
    """The processes that do something together, seen from one of them.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are.
        failed: whether the last thing done together failed, in this process or in another one.
    """

    rank: int = 0
    size: int = 1
    failed: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes, logs and decides."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """The device of this process: of several on accelerators each takes its own."""
        if self.size == 1 or torch.device(device).type != "cuda":
            return device
        own = int(os.environ.get("LOCAL_RANK", self.rank))
        torch.cuda.set_device(own)
        return f"cuda:{own}"

    @contextmanager
    def jointly(self) -> Iterator[None]:
        """Run a block in every process; if it fails in one, it fails in all.

        Raises:
            MemoryError: the memory of another process is exhausted.
            MethodError: it failed in another process otherwise; the message is that one's.
        """
        try:
            yield
        except BaseException as error:
            self._exchange(error)
            raise
        failures = self._exchange(None)
        if failures:
            text = "; ".join(f"process {i} of {self.size}: {text}" for i, text, _ in failures)
            exhausted = any(one for _, _, one in failures)
            raise MemoryError(text) if exhausted else MethodError(text)

    def _exchange(self, error: BaseException | None) -> list[tuple[int, str, bool]]:
        """Tell the others of a failure; returns who failed, with what, and whether for memory."""
        if self.size == 1:
            return []
        with _answered():
            count = torch.tensor([int(error is not None)])
            dist.all_reduce(count)
            self.failed = bool(count)
            if not self.failed:
                return []
            told: list[Any] = [None] * self.size
            text = str(error) if isinstance(error, BenchError) else repr(error)
            exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
            own = None if error is None else (self.rank, text, exhausted)
            dist.all_gather_object(told, own)
        return [one for one in told if one is not None]

    def add_up(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size > 1:
            with _answered():
                for tensor in tensors:
                    dist.all_reduce(tensor)

    def from_leader(self, value: _R) -> _R:
        """The value that process 0 has; anything that can be pickled."""
        if self.size == 1:
            return value
        values = [value]
        with _answered():
            dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def _answered() -> Iterator[None]:
    """Exchange something; an error of the connection means that a process is lost."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcessError(
            f"a process of this command ended, or did not answer within {LIMIT} ({reason}). "
            "The same command goes on from the last checkpoint."
        ) from error


_group: Processes | None = None


def processes() -> Processes:
    """The processes of this command; one, if it was not launched as several."""
    if _group is not None:
        return _group
    if launched():
        return _connect()[0]
    return Processes()


def _connect() -> tuple[Processes, Any]:
    """Meet the other processes; returns them, and the store of words that all share."""
    global _group
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    with _answered():
        store, rank, size = next(rendezvous("env://", timeout=LIMIT))
        dist.init_process_group(
            # What lies on an accelerator is summed there, everything else by the processor.
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=LIMIT,
        )
    _group = Processes(rank, size)
    return _group, store


def everywhere(function: Callable[..., _R], own: Mapping[str, Any], **shared: Any) -> _R:
    """Call ``function(**shared, **own)``, in the other processes of this command ``function(**shared)``.

    Args:
        function: of a module; in the other processes it is told of failures by
            :meth:`Processes.jointly` alone.
        own: arguments of this process, for which the others have defaults.
        **shared: arguments that can be pickled.

    Raises:
        LostProcessError: a process is lost, or this one failed and the others cannot know it.
    """
    if _leader is None:
        return function(**shared, **own)
    group = processes()
    _leader.call(function, shared)
    try:
        return function(**shared, **own)
    except Exception as error:
        if not group.failed:
            raise LostProcessError(f"{type(error).__name__}: {error}") from error
        raise


class _Leader:
    """Process 0 of a command, which calls the others to work."""

    def __init__(self, store: Any, size: int) -> None:
        self._store = store
        self._size = size
        self._words = 0
        self._done = threading.Event()
        self._alive = threading.Thread(target=self._live, name="sign-of-life", daemon=True)
        self._alive.start()

    def _live(self) -> None:
        while not self._done.wait(_BEAT):
            try:
                self._store.add("alive", 1)
            except RuntimeError:
                return  # the launcher is gone; the next exchange says so

    def call(self, function: Callable[..., Any], shared: Mapping[str, Any]) -> None:
        """Have every other process call ``function(**shared)``, with as many threads as this one."""
        with _answered():
            self._say(_WORK)
            order = (function, dict(shared), torch.get_num_threads())
            dist.broadcast_object_list([order], src=0)

    def _say(self, word: str) -> None:
        self._store.set(f"word-{self._words}", word)
        self._words += 1

    def end(self) -> None:
        """Let the others end, and wait a little until they have heard it."""
        self._done.set()
        self._alive.join()
        with suppress(RuntimeError):  # the launcher ended first, and the others with it
            self._say(_END)
            until = time.monotonic() + _GOODBYE
            while self._store.add("left", 0) < self._size - 1 and time.monotonic() < until:
                time.sleep(_POLL / 10)


_leader: _Leader | None = None


def run_as_one(command: Callable[[], object]) -> None:
    """Run a command in the process that leads; the others help, print nothing and end with it.

    Raises:
        SystemExit: a process was lost, with what is known of it.
    """
    global _leader
    try:
        group, store = _connect()
        if not group.leads:
            with _silence():
                _help(group, store)
            return
        _leader = _Leader(store, group.size)
        try:
            command()
        except LostProcessError:
            raise  # nobody may be left to say goodbye to
        except BaseException:
            _leader.end()
            raise
        _leader.end()
    except LostProcessError as error:
        raise SystemExit(f"error: {error}") from error


def _help(group: Processes, store: Any) -> None:
    """Do what process 0 calls for, until it lets this one go."""
    words = 0
    while _heard(store, f"word-{words}", group) == _WORK:
        words += 1
        orders: list[Any] = [None]
        with _answered():
            dist.broadcast_object_list(orders, src=0)
        function, shared, n_threads = orders[0]
        torch.set_num_threads(n_threads)
        group.failed = False
        try:
            function(**shared)
        except Exception:
            if not group.failed:
                raise
        release_accelerators()
    store.add("left", 1)


def _heard(store: Any, key: str, group: Processes) -> str:
    """The next word of process 0; watches that it lives."""
    signs, heard_of = 0, time.monotonic()
    with _answered():
        while not store.check([key]):
            time.sleep(_POLL)
            now = store.add("alive", 0)
            if now != signs:
                signs, heard_of = now, time.monotonic()
            elif time.monotonic() - heard_of > _SILENCE:
                raise SystemExit(
                    f"error: process {group.rank} of {group.size}: no sign of life of process 0 for "
                    f"{_SILENCE:.0f} s."
                )
        word: str = store.get(key).decode()
    return word


@contextmanager
def _silence() -> Iterator[None]:
    """Let nothing out of this process but the report of an error that nobody else can tell."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 - no path of this package
        for stream in (1, 2):
            os.dup2(nothing.fileno(), stream)
    try:
        yield
    except (Exception, SystemExit):
        os.dup2(kept, 2)
        raise
