"""Fits that several checks share, each watched for side effects."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.data.domain import Domain
from bench.enclosure import (
    Code,
    Decoy,
    Places,
    Watch,
    arrays_of,
    counted_steps,
    frozen,
    held_out_places,
    own_module,
    shifted_draws,
    watched,
    write_decoy,
)
from bench.errors import BenchError, MissingExtraError
from bench.methods import Capabilities, Method, Requests, Scores, TrainView
from bench.protocol.task import Task, build_task
from bench.testing.context import TestContext, make_context
from bench.testing.isolation import (
    IMPORT_EFFECTS,
    LOADING_EFFECTS,
    global_state,
    restore_state,
    state_changes,
    watch_prints,
    watch_writes,
)
from bench.testing.planted import planted_domain, planted_sources, replace_test_items
from bench.testing.results import CheckFailed, CheckSkipped
from bench.testing.tripwire import Tripwire, make_tripwire
from bench.validation import validation_users

__all__ = ["Fitted", "Session"]

_SMALL_USERS = 80
_LARGE_USERS = 300


@dataclass(slots=True, eq=False)
class Fitted:
    """A fitted method and what it was fitted with.

    Attributes:
        decoy: which of the session's decoys it was fitted beside, and is scored beside.
    """

    method: Method
    context: TestContext
    view: TrainView
    task: Task
    decoy: int = 0


@dataclass(eq=False)
class Session:
    """One conformance run of one configured method.

    Attributes:
        cls, config: the method.
        folder: temporary folder; every fit has its own scratch folder in it.
        check: the check that is running.
        state_faults, input_faults, write_faults, print_faults: side effects seen so far, one line
            each.
        steps: classes of optimisers that made a step in a fit.
        secret: seed of candidate sets that no method can compute.
        code: the harness's as it was at the beginning.
    """

    cls: type[Method]
    config: BaseModel
    folder: Path
    check: str = ""
    state_faults: list[str] = field(default_factory=list)
    input_faults: list[str] = field(default_factory=list)
    write_faults: list[str] = field(default_factory=list)
    print_faults: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    secret: int = field(default_factory=lambda: secrets.randbits(128))
    code: Code = field(default_factory=Code.now)
    _fits: dict[str, Fitted | Exception] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)
    _warm: set[str] = field(default_factory=set)

    @cached_property
    def capabilities(self) -> Capabilities:
        """Capabilities of the configured method."""
        return self.cls.capabilities(self.config)

    @property
    def _n_sources(self) -> int:
        """Sources of a planted task: none, the only one that the method takes, or two."""
        needs = self.capabilities
        return 0 if not needs.needs_sources else 1 if needs.single_source else 2

    @cached_property
    def small_domains(self) -> tuple[Domain, tuple[Domain, ...]]:
        """A small planted target and the sources, if the method needs any."""
        count = self._n_sources
        namespace = "planted" if count else None
        target = planted_domain(n_users=_SMALL_USERS, namespace=namespace)
        return target, planted_sources(count, n_users=_SMALL_USERS // 2)

    @cached_property
    def small_task(self) -> Task:
        """The task on which most checks fit."""
        target, sources = self.small_domains
        return build_task(target, sources=sources)

    @cached_property
    def changed_task(self) -> Task:
        """The small task with other test items, and with everything else exactly as before.

        Validation candidates exclude a user's test item, so another test item could change them;
        users if it does keep theirs.
        """
        target, sources = self.small_domains
        users = self.small_task.subset(None)
        old, _ = self.small_task.validation(users)
        changing = users
        while True:
            task = build_task(replace_test_items(target, changing), sources=sources)
            new, _ = task.validation(users)
            same = (old.candidates == new.candidates).all(axis=1)
            if same.all():
                return task
            changing = np.setdiff1d(changing, users[~same])

    @cached_property
    def large_task(self) -> Task:
        """The task on which the method has to learn."""
        target, sources = self.large_domains
        return build_task(target, sources=sources)

    @cached_property
    def large_domains(self) -> tuple[Domain, tuple[Domain, ...]]:
        """A planted target that is large enough to learn from, and the sources."""
        count = self._n_sources
        namespace = "planted" if count else None
        target = planted_domain(n_users=_LARGE_USERS, namespace=namespace)
        return target, planted_sources(count)

    @cached_property
    def tripwire(self) -> Tripwire:
        """The task with canaries."""
        return make_tripwire(n_sources=1 if self.capabilities.needs_sources else 0)

    @cached_property
    def requests(self) -> Requests:
        """All test requests of the small task."""
        pairs = self.small_task.test(self.small_task.subset(None)).chunks(10**6)
        return next(iter(pairs))[0]

    def base(self) -> Fitted:
        """The method fitted on the small task with seed 0."""
        return self.fit("base", lambda: self.small_task)

    def fit(
        self,
        key: str,
        task: Callable[[], Task],
        *,
        seed: int = 0,
        shift_globals: bool = False,
        shift_draws: bool = False,
    ) -> Fitted:
        """Fit once under a key; later calls return the same object.

        Args:
            key: name of the fit.
            task: makes the task.
            seed: training seed.
            shift_globals: start from other states of the process-wide random generators.
            shift_draws: give generators that the fit seeds itself other seeds.

        Raises:
            CheckFailed: fitting failed, and this check is the first to see it.
            CheckSkipped: another check has told that fitting failed, or what it needs is absent.
        """
        if isinstance(self._fits.get("base"), Exception):
            key = "base"  # what fails on the plain task is not tried on others
        if key not in self._fits:
            try:
                self._fits[key] = self._fit(key, task(), seed, shift_globals, shift_draws)
            except Exception as error:
                self._fits[key] = error
        result = self._fits[key]
        if isinstance(result, Fitted):
            return result
        teller = self._told.setdefault(key, self.check)
        if teller != self.check:
            raise CheckSkipped(f"not fitted, see the check `{teller}`")
        if isinstance(result, MissingExtraError):
            raise CheckSkipped(f"something optional is not installed: {result}")
        raise CheckFailed(f"fit raised {describe(result)}") from result

    def _fit(
        self, key: str, task: Task, seed: int, shift_globals: bool, shift_draws: bool
    ) -> Fitted:
        needs = self.capabilities
        decoy = int(key == "changed")
        view = task.train_view(
            with_sources=needs.needs_sources,
            transductive=needs.transductive,
            item_columns=needs.item_columns,
        )
        context = make_context(
            self.folder / key,
            task,
            validation_users=validation_users(self.config),
            capabilities=needs,
            # A store of its own for every fit, or the second one would find the adapters of the first.
            adapters=self.cls.adapter_store(self.folder / key / "adapters"),
            seed=seed,
        )
        state = global_state()
        if shift_globals:
            _shift_globals()
        try:
            with (
                shifted_draws(self.cls) if shift_draws else nullcontext(),
                counted_steps(self.cls) as steps,
            ):
                with self.enclosed("__init__", context, decoy):
                    method = self.cls(self.config)
                self.watched(
                    "fit", context, {"view": view}, lambda: method.fit(view, context), decoy
                )
        finally:
            restore_state(state)
        self.steps += [name for name in steps if name not in self.steps]
        return Fitted(method, context, view, task, decoy)

    def score(self, fitted: Fitted, requests: Requests, decoy: int | None = None) -> Scores:
        """Score, watched for side effects, beside the decoy of the fit or another.

        Raises:
            CheckFailed: ``score`` raised an error.
        """
        try:
            scores: Scores = self.watched(
                "score",
                fitted.context,
                {"requests": requests},
                lambda: fitted.method.score(requests, fitted.context),
                fitted.decoy if decoy is None else decoy,
            )
            return scores
        except Exception as error:
            raise CheckFailed(f"score raised {describe(error)}") from error

    @contextmanager
    def enclosed(
        self, phase: str, context: TestContext, decoy: int = 0, *free: Path
    ) -> Iterator[None]:
        """Code of the method runs in the block, as a plugin's does in a run (:mod:`bench.enclosure`)."""
        places = Places(
            (*self._places.data, *(one.domains for one in self.decoys)),
            (*self._places.runs, *(one.store for one in self.decoys)),
            (context.scratch, *free),
        ).resolved()
        watch = Watch(f"{self.cls.name}: {phase}()", own_module(self.cls), places)
        with self.decoys[decoy].shown(), watched(watch):
            yield

    @cached_property
    def _places(self) -> Places:
        return held_out_places(self.cls, None, None)

    @cached_property
    def decoys(self) -> tuple[Decoy, Decoy]:
        """Two stand-ins for cache, store and data root, which differ in every answer alone."""
        target, sources = self.large_domains
        first, second = (
            write_decoy(
                self.folder / f"decoy-{seed}",
                [target, *sources],
                seed=seed,
                method=self.cls.name,
            )
            for seed in (0, 1)
        )
        return first, second

    def values(
        self, fitted: Fitted, requests: Requests | None = None, decoy: int | None = None
    ) -> NDArray[np.floating[Any]]:
        """Scores as an array; for a generator of lists, the answer slots count as well."""
        scores = self.score(fitted, self.requests if requests is None else requests, decoy)
        if scores.slots is None:
            return scores.values
        return np.concatenate([scores.values, scores.slots.astype(np.float32)], axis=1)

    def watched(
        self,
        what: str,
        context: TestContext,
        inputs: Mapping[str, Any],
        action: Callable[[], Any],
        decoy: int = 0,
    ) -> Any:
        """Run ``action`` and note what it does to inputs, files and the process."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, value in inputs.items():
            arrays |= arrays_of(value, name)
        before, n_modules = global_state(), len(sys.modules)
        writes: list[str] = []
        prints: list[str] = []
        try:
            with (
                watch_prints() as prints,
                watch_writes([context.scratch, *(one.root for one in self.decoys)]) as writes,
                frozen(
                    arrays, lambda name: self._note(self.input_faults, f"{what} changed {name}")
                ),
                self.enclosed(what, context, decoy),
            ):
                return action()
        finally:
            for path in writes:
                self._note(self.write_faults, f"{what} wrote {path}")
            for text in prints:
                self._note(self.print_faults, f"{what} printed {text[:80]!r}")
            changes = state_changes(before, global_state())
            # The first call imports libraries, which may add filters and handlers.
            excused = IMPORT_EFFECTS | (LOADING_EFFECTS if len(sys.modules) > n_modules else set())
            for name, text in changes.items():
                if what in self._warm or name not in excused:
                    self._note(self.state_faults, f"{what} changed {text}")
            if changes:
                restore_state(before)
            self._warm.add(what)

    @staticmethod
    def _note(faults: list[str], line: str) -> None:
        if line not in faults:
            faults.append(line)


def _shift_globals() -> None:
    """Move every process-wide random generator elsewhere; the caller restores them."""
    random.seed(987_654_321)
    np.random.seed(987_654_321)  # noqa: NPY002 - the generator that methods must not depend on
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(987_654_321)


def describe(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code where it arose."""
    cause = error.__cause__
    inner = cause if isinstance(error, BenchError) and cause is not None else error
    trace, place = inner.__traceback__, ""
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
    return f"{kind}{error}{place}"
