"""Tasks and runs: :func:`load_task`, :func:`run`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data.domain import Domain
from bench.data.load import study_sources
from bench.data.prepare import Ties
from bench.data.raw import OnError
from bench.errors import ConfigError
from bench.io import StrPath
from bench.methods import Method, config_dict, load_class, names, register, resolve_config
from bench.process import quiet_threads
from bench.protocol import ProtocolOptions, Task
from bench.runs.matrix import RunResult, expand, run_matrix
from bench.runs.progress import make_progress
from bench.runs.resolve import require_available
from bench.runs.runner import prepare
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore, open_store
from bench.runs.tasks import TaskCache

__all__ = ["TaskHandle", "load_task", "run"]

_ANY_METHOD = "random"
"""Tasks are the same for every method without sources; this one needs nothing."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TaskHandle:
    """A task, and what it was made of, so that methods with sources find theirs.

    Attributes:
        task: the task without sources, as the protocol built it.
        spec: the choices that made it, with the sources that were named.
        cache: what was built of them.
    """

    task: Task
    spec: RunSpec
    cache: TaskCache

    def __repr__(self) -> str:
        return repr(self.task)

    @property
    def target(self) -> str:
        """Name of the target domain."""
        return self.task.target

    @property
    def n_users(self) -> int:
        """Evaluated users."""
        return self.task.n_users

    @property
    def n_items(self) -> int:
        """Items of the target."""
        return self.task.n_items

    @property
    def task_hash(self) -> str:
        """Identity: runs of equal ``task_hash`` are comparable."""
        return self.task.task_hash

    @property
    def candidates_hash(self) -> str:
        """Identity of the test candidates."""
        return self.task.candidates_hash

    def with_sources(self) -> Task:
        """The same task with its sources: those that were named, else the rest of the study group.

        Raises:
            MissingDataError: one of them is not on disk.
        """
        spec = self.spec
        if spec.sources is None:
            sources = study_sources(spec.target, spec.data_root)
            spec = spec.model_copy(update={"sources": sources})
        require_available([spec], self.cache.domains)
        return self.cache.get(spec).task


def load_task(
    domain: StrPath | Domain,
    *,
    sources: Iterable[str | Domain] | None = None,
    negatives: Literal["uniform", "popularity", "full"] = "uniform",
    n_negatives: int = 29,
    candidate_seed: int = 0,
    candidates: StrPath | None = None,
    train_on: Literal["train", "train+valid"] = "train",
    keep_leak: bool = False,
    ties: Ties = "file",
    on_error: OnError = "raise",
    data_root: StrPath | None = None,
) -> TaskHandle:
    """Load a target domain and build its task.

    Args:
        domain: a name; the folder of a domain, as a ``Path`` or a text with a slash; or a domain.
        sources: source domains; None = the rest of the study group, for methods that need sources.
        negatives: how negatives are drawn; ``full`` ranks the whole catalogue.
        n_negatives: negatives per user, >= 1.
        candidate_seed: seed of the test candidates.
        candidates: file of candidate sets to rank instead.
        train_on: whether the validation items are trained on as well.
        keep_leak: whether the cross-domain leak guard is switched off.
        ties: order of events of equal time; a domain in memory is ordered already.
        on_error: what happens at a malformed line.
        data_root: folder of ready domains; None = ``BENCH_DATA_ROOT``, then the cache.

    Raises:
        ConfigError: an unknown domain, or options that do not go together.
        MissingDataError: the domain is not on disk.
        DataError, ProtocolError: it cannot be read, or the task not be built.
    """
    chosen = [] if sources is None else list(sources)
    if not isinstance(domain, Domain) and (isinstance(domain, Path) or set(domain) & {"/", "\\"}):
        folder = Path(domain).expanduser().absolute()
        if not folder.is_dir() or data_root is not None:
            raise ConfigError(
                f"{folder}: expected the folder of a domain (NAME/NAME.inter), and no data_root beside it."
            )
        domain, data_root = folder.name, folder.parent
    if candidates is not None and negatives != "uniform":
        raise ConfigError(
            f"candidates {candidates} and negatives {negatives!r}: a file replaces the draw; give one of "
            "the two."
        )
    spec = RunSpec(
        method=_ANY_METHOD,
        target=_name(domain),
        sources=None if sources is None else tuple(map(_name, chosen)),
        protocol=ProtocolOptions(
            negatives="imported" if candidates is not None else negatives,
            n_negatives=n_negatives,
            candidate_seed=candidate_seed,
            train_on=train_on,
            keep_leak=keep_leak,
        ),
        candidates=candidates,
        ties=ties,
        on_error=on_error,
        data_root=data_root,
    )
    cache = TaskCache(domains=[one for one in (domain, *chosen) if isinstance(one, Domain)])
    return TaskHandle(prepare(spec, tasks=cache).loaded.task, spec, cache)


def _name(domain: StrPath | Domain) -> str:
    return domain.name if isinstance(domain, Domain) else str(domain)


def run(
    method: str | Method,
    task: TaskHandle | StrPath | Domain,
    *,
    seed: int = 0,
    profile: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
    limit_users: int | Literal["auto"] | None = "auto",
    candidate_seeds: Iterable[int] = (),
    full_ranking: bool = False,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    keep_model: bool = False,
    store: RunStore | StrPath | None = None,
    force: bool = False,
    progress: bool = False,
) -> RunResult:
    """Train a method on a task, score it and store the run; a stored one is returned at once.

    Args:
        method: a name, ``recbole:MODEL``, ``file.py:Class``; or a method, of which class and
            configuration are taken: the run makes one of its own.
        task: what :func:`load_task` gave, or its first argument.
        seed: training seed; methods without random training run with 0.
        profile: named hyper-parameters.
        overrides: configuration values that differ from the profile.
        limit_users: score a nested subset; None = all users, ``auto`` = the method's default.
        candidate_seeds: further test-candidate seeds that the same fit is scored on.
        full_ranking: whether the whole catalogue is ranked as well.
        device: torch device.
        dtype: number format of a model; ``auto`` = the method's default.
        threads: CPU threads; None = what the method gains from.
        keep_model: whether the fitted model is stored with the run.
        store: where results are kept; None = ``BENCH_STORE``, else ``./bench-runs``.
        force: whether a stored run is repeated.
        progress: whether progress is shown on standard error.

    Returns:
        The run, and whether it was ``done`` now or ``stored`` before.

    Raises:
        ConfigError, MissingExtraError, MissingDataError: wrong use; nothing was run.
        BenchError: the run failed; its record is kept in the store.
        KeyboardInterrupt: checkpoints are kept, and the same call goes on from there.
    """
    quiet_threads()  # has no effect once torch is loaded
    handle = task if isinstance(task, TaskHandle) else load_task(task)
    if isinstance(method, Method):
        if overrides:
            raise ConfigError(
                f"overrides {dict(overrides)} beside a method, which has its configuration; give one of "
                "the two."
            )
        method, overrides = _named(method, profile)
    asked = handle.spec
    specs = expand(
        [method],
        [handle.target],
        [seed],
        limit_users=limit_users,
        dtype=dtype,
        given=handle.cache.domains,
        overrides=overrides,
        profile=profile,
        sources=asked.sources,
        protocol=asked.protocol,
        candidates=asked.candidates,
        ties=asked.ties,
        on_error=asked.on_error,
        data_root=asked.data_root,
        extra_candidate_seeds=tuple(candidate_seeds),
        full_ranking=full_ranking,
        device=device,
        threads=threads,
        keep_model=keep_model,
    )
    if len(specs) > 1:
        sources = ", ".join(source for spec in specs for source in spec.sources or ())
        raise ConfigError(
            f"{method} takes one source, and the task has {len(specs)} ({sources}). Load the task with one: "
            f"load_task({handle.target!r}, sources=[...])."
        )
    reporter = make_progress("auto" if progress else "quiet")
    try:
        (result,) = run_matrix(
            specs, open_store(store), force=force, progress=reporter, tasks=handle.cache
        )
    finally:
        reporter.close()
    if result.error is not None:
        raise result.error
    return result


def _named(method: Method, profile: str) -> tuple[str, Mapping[str, Any]]:
    """A name that leads to a method's class, and its configuration.

    A class of a file is named by the file, so that its code is what lies there now, and the run can be
    repeated; any other is known in this process from now on.

    Raises:
        ConfigError: another class has this name, or the configuration is not one that values can tell.
    """
    cls = type(method)
    name = cls.name
    if name not in names() or load_class(name) is not cls:
        module = sys.modules[cls.__module__]
        file = getattr(module, "__file__", None)
        alone = "." not in cls.__module__ and not hasattr(module, "__path__")
        if file is not None and alone and cls.__module__ != "__main__":
            name = f"{file}:{cls.__qualname__}"
        else:
            register(name, cls)
    overrides = config_dict(method.config)
    if resolve_config(cls, profile=profile, overrides=overrides) != method.config:
        raise ConfigError(
            f"{cls.name}: profile {profile!r} with the values of this configuration gives another one. "
            "Give the name of the method and its `overrides`."
        )
    return name, overrides
