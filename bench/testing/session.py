"""Fits that several checks share, each watched for side effects."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.data.domain import Domain
from bench.errors import BenchError, MissingExtraError
from bench.methods import Capabilities, Method, Requests, Scores, TrainView
from bench.protocol.task import Task, build_task
from bench.testing.context import TestContext, make_context
from bench.testing.isolation import (
    IMPORT_EFFECTS,
    arrays_of,
    frozen,
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
    """A fitted method and what it was fitted with."""

    method: Method
    context: TestContext
    view: TrainView
    task: Task


@dataclass(eq=False)
class Session:
    """One conformance run of one configured method.

    Attributes:
        cls, config: the method.
        folder: temporary folder; every fit has its own scratch folder in it.
        check: the check that is running.
        state_faults, input_faults, write_faults, print_faults: side effects seen so far, one line
            each.
    """

    cls: type[Method]
    config: BaseModel
    folder: Path
    check: str = ""
    state_faults: list[str] = field(default_factory=list)
    input_faults: list[str] = field(default_factory=list)
    write_faults: list[str] = field(default_factory=list)
    print_faults: list[str] = field(default_factory=list)
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
        users where it does keep theirs.
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
        count = self._n_sources
        namespace = "planted" if count else None
        target = planted_domain(n_users=_LARGE_USERS, namespace=namespace)
        return build_task(target, sources=planted_sources(count))

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
        self, key: str, task: Callable[[], Task], *, seed: int = 0, shift_globals: bool = False
    ) -> Fitted:
        """Fit once under a key; later calls return the same object.

        Args:
            key: name of the fit.
            task: makes the task.
            seed: training seed.
            shift_globals: start from other states of the process-wide random generators.

        Raises:
            CheckFailed: fitting failed, and this check is the first to see it.
            CheckSkipped: another check has told that fitting failed, or what it needs is absent.
        """
        if isinstance(self._fits.get("base"), Exception):
            key = "base"  # what fails on the plain task is not tried on others
        if key not in self._fits:
            try:
                self._fits[key] = self._fit(key, task(), seed, shift_globals)
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

    def _fit(self, key: str, task: Task, seed: int, shift_globals: bool) -> Fitted:
        needs = self.capabilities
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
        method = self.cls(self.config)
        state = global_state()
        if shift_globals:
            _shift_globals()
        try:
            self.watched("fit", context, {"view": view}, lambda: method.fit(view, context))
        finally:
            restore_state(state)
        return Fitted(method, context, view, task)

    def score(self, fitted: Fitted, requests: Requests) -> Scores:
        """Score, watched for side effects.

        Raises:
            CheckFailed: ``score`` raised an error.
        """
        try:
            scores: Scores = self.watched(
                "score",
                fitted.context,
                {"requests": requests},
                lambda: fitted.method.score(requests, fitted.context),
            )
            return scores
        except Exception as error:
            raise CheckFailed(f"score raised {describe(error)}") from error

    def values(self, fitted: Fitted, requests: Requests | None = None) -> NDArray[np.floating[Any]]:
        """Scores as an array; for a generator of lists, the answer slots count as well."""
        scores = self.score(fitted, self.requests if requests is None else requests)
        if scores.slots is None:
            return scores.values
        return np.concatenate([scores.values, scores.slots.astype(np.float32)], axis=1)

    def watched(
        self, what: str, context: TestContext, inputs: Mapping[str, Any], action: Callable[[], Any]
    ) -> Any:
        """Run ``action`` and note what it does to inputs, files and the process."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, value in inputs.items():
            arrays |= arrays_of(value, name)
        before = global_state()
        writes: list[str] = []
        prints: list[str] = []
        try:
            with (
                watch_prints() as prints,
                watch_writes([context.scratch]) as writes,
                frozen(
                    arrays, lambda name: self._note(self.input_faults, f"{what} changed {name}")
                ),
            ):
                return action()
        finally:
            for path in writes:
                self._note(self.write_faults, f"{what} wrote {path}")
            for text in prints:
                self._note(self.print_faults, f"{what} printed {text[:80]!r}")
            changes = state_changes(before, global_state())
            for name, text in changes.items():
                # The first call imports libraries, which may add filters and handlers.
                if what in self._warm or name not in IMPORT_EFFECTS:
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
