"""One attempt at a run: fit (or go on from what a killed attempt left), score, write the folder."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, MethodError
from bench.evaluation import Outcomes, rank_outcomes
from bench.io import atomic_folder, sha256_file, write_bytes, write_json
from bench.methods import Method, Progress
from bench.protocol import RequestSet
from bench.runs.context import DEFAULT_VALIDATION_USERS, RunContext, ValidationCall, Validator
from bench.runs.environment import (
    MemoryMeter,
    available_threads,
    git_revision,
    hardware,
    limit_threads,
    package_versions,
)
from bench.runs.manifest import jsonable, metrics_record, per_user_bytes, utc_now
from bench.runs.progress import LoggedProgress
from bench.runs.scoring import check_candidates, check_scores, chunk_rows, merge_diagnostics
from bench.runs.sets import SetRequest
from bench.runs.store import FORMAT, LOG, MANIFEST, METRICS, PER_USER, StoredRun
from bench.runs.work import Work

if TYPE_CHECKING:
    from bench.runs.runner import PreparedRun

__all__ = ["Attempt"]


class Clock:
    """Wall and CPU seconds of named phases."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._start = (time.perf_counter(), time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to ``name``."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def total(self) -> tuple[float, float]:
        """Wall and CPU seconds since the clock was made."""
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


class Attempt:
    """Everything that happens between holding a run's lock and a complete folder in ``work.result``."""

    def __init__(
        self,
        prepared: PreparedRun,
        work: Work,
        progress: Progress,
        wanted: tuple[SetRequest, ...],
        checkpoint_seconds: float,
    ) -> None:
        self._prepared = prepared
        self._work = work
        self._outer_progress = progress
        self._wanted = wanted
        self._checkpoint_seconds = checkpoint_seconds
        self._clock = Clock()
        self._memory = MemoryMeter()
        self._started = utc_now()
        self._diagnostics: dict[str, Any] = {}
        self._state: dict[str, Any] = {}

    def run(self, *, anew: bool, earlier: StoredRun | None) -> None:
        """Fit, score and write the run folder.

        Args:
            anew: forget what earlier attempts left.
            earlier: a stored result of this run that lacks request sets; its model saves the fit.

        Raises:
            BenchError: the method failed or broke its contract.
        """
        state = self._work.open(anew=anew)
        self._state = {
            "attempts": int(state.get("attempts", 0)) + 1,
            "earlier_seconds": float(state.get("earlier_seconds", 0.0))
            + float(state.get("seconds", 0.0)),
            "started": state.get("started", self._started),
            "fit": state.get("fit"),
            "validations": state.get("validations", []),
        }
        self._save_state()
        spec = self._prepared.spec
        threads = spec.threads or available_threads()
        with self._work.logger() as log, limit_threads(threads) as apply_threads:
            log.info(
                "run %s: %s, attempt %d", self._prepared.run_id, spec.label, self._state["attempts"]
            )
            try:
                progress = LoggedProgress(self._outer_progress, log)
                context = self._context(progress, log, threads, apply_threads)
                method = self._fitted(context, earlier)
                outcomes = self._score_all(method, context)
                log.info("scored %d users; writing the result", len(self._prepared.users))
            except BaseException:
                log.error("attempt failed\n%s", traceback.format_exc())
                self._save_state()
                raise
        with self._outer_progress.stage("store the result"):
            self._write(method, outcomes)

    def _save_state(self) -> None:
        self._work.save_state({**self._state, "seconds": self._clock.total()[0]})

    def _context(
        self, progress: Progress, log: Any, threads: int, apply_threads: Callable[[], None]
    ) -> RunContext:
        prepared, spec = self._prepared, self._prepared.spec
        task = prepared.loaded.task
        wanted = getattr(prepared.resolved.config, "validation_users", DEFAULT_VALIDATION_USERS)
        requests, labels = task.validation(task.subset(min(wanted, task.n_users)))
        return RunContext(
            seed=spec.seed,
            init_seed=spec.init_seed,
            device=spec.device,
            dtype=spec.dtype,
            threads=threads,
            scratch=self._work.scratch,
            progress=progress,
            log=log,
            validator=Validator(
                requests, labels, prepared.resolved.capabilities, on_call=self._note_validation
            ),
            before_scoring=apply_threads,
        )

    def _note_validation(self, call: ValidationCall) -> None:
        self._state["validations"].append(
            {
                "at_seconds": round(self._state["earlier_seconds"] + call.at_seconds, 3),
                "seconds": round(call.seconds, 3),
                "ndcg@1": call.ndcg1,
                "ndcg@5": call.ndcg5,
            }
        )
        self._save_state()

    def _fitted(self, context: RunContext, earlier: StoredRun | None) -> Method:
        """The fitted method: loaded where an earlier attempt or a stored run has it, else fitted."""
        resolved = self._prepared.resolved
        method = resolved.method_cls(resolved.config)
        context.before_scoring()
        for folder in _models(self._work, earlier):
            with self._clock.phase("load"), _phase(resolved.spec.label, "load"):
                method.load(folder)
            context.log.info("loaded the fitted model instead of fitting again")
            if earlier is not None and self._state["fit"] is None:
                self._state["fit"] = _fit_of(earlier)
            return method
        if resolved.capabilities.trainable:
            self._work.drop_parts()
        view = self._prepared.loaded.task.train_view(
            with_sources=resolved.capabilities.needs_sources,
            transductive=resolved.capabilities.transductive,
        )
        with (
            context.progress.stage(f"fit {resolved.spec.label}"),
            self._clock.phase("fit"),
            _phase(resolved.spec.label, "fit"),
        ):
            method.fit(view, context)
        self._state["fit"] = {
            "seconds": self._clock.wall["fit"],
            "cpu_seconds": self._clock.cpu["fit"],
            "training": _training_report(method),
        }
        if self._clock.wall["fit"] >= self._checkpoint_seconds:
            self._work.save_model(method)
        self._save_state()
        return method

    def _score_all(
        self, method: Method, context: RunContext
    ) -> list[tuple[SetRequest | None, str, Outcomes]]:
        task, users = self._prepared.loaded.task, self._prepared.users
        results: list[tuple[SetRequest | None, str, Outcomes]] = []
        for wanted in (None, *self._wanted):
            requests = task.test(users) if wanted is None else wanted.build(task, users)
            name = "test candidates" if wanted is None else wanted.label
            with (
                context.progress.stage(f"score {self._prepared.spec.label}: {name}"),
                self._clock.phase("score" if wanted is None else "score_sets"),
            ):
                outcomes = self._score_set(method, context, requests, wanted)
            results.append((wanted, requests.candidates_hash, outcomes))
        return results

    def _score_set(
        self,
        method: Method,
        context: RunContext,
        requests: RequestSet,
        wanted: SetRequest | None,
    ) -> Outcomes:
        """Score one request set in chunks; the task's own set (``wanted`` None) gives diagnostics."""
        resolved = self._prepared.resolved
        owner = resolved.method_cls.name
        name = requests.candidates_hash[:16]
        diagnostics: dict[str, Any] = {}
        parts: list[Outcomes] = []
        saved = self._work.load_part(name)
        if saved is not None:
            parts, diagnostics = [saved[0]], saved[1]
        done = sum(len(p) for p in parts)
        last_save = time.perf_counter()
        row = 0
        size = chunk_rows(requests.n_candidates)
        check_candidates(resolved.capabilities, requests.n_candidates, owner)
        n_chunks = -(-requests.n // size)
        for chunk, labels in context.progress.track(
            requests.chunks(size), total=n_chunks, description="score"
        ):
            row += len(chunk)
            if row <= done:
                continue
            context.before_scoring()
            with _phase(resolved.spec.label, "score"):
                scores = method.score(chunk, context)
            check_scores(scores, chunk, resolved.capabilities, owner)
            parts.append(
                rank_outcomes(
                    scores.values,
                    labels.position,
                    excluded=labels.excluded,
                    slots=scores.slots,
                    may_leave_unranked=resolved.capabilities.may_leave_unranked,
                    owner=owner,
                    users=chunk.users,
                )
            )
            merge_diagnostics(diagnostics, jsonable(scores.diagnostics))
            if time.perf_counter() - last_save >= self._checkpoint_seconds:
                self._work.save_part(name, Outcomes.concat(parts), diagnostics)
                last_save = time.perf_counter()
        if wanted is None:
            self._diagnostics = diagnostics
        return Outcomes.concat(parts)

    def _write(
        self, method: Method, outcomes: list[tuple[SetRequest | None, str, Outcomes]]
    ) -> None:
        users = self._prepared.users
        with atomic_folder(self._work.result, replace=True) as folder:
            sets: dict[str, Any] = {}
            metrics: dict[str, Any] = {}
            for wanted, digest, values in outcomes:
                if wanted is None:
                    write_bytes(folder / PER_USER, per_user_bytes(users, values))
                    metrics |= metrics_record(values)
                    continue
                file = f"sets/{digest[:16]}.parquet"
                write_bytes(folder / file, per_user_bytes(users, values))
                sets[digest] = {
                    "kind": wanted.kind,
                    "candidate_seed": wanted.candidate_seed,
                    "file": file,
                }
                metrics.setdefault("sets", {})[digest] = metrics_record(values)
            write_json(folder / METRICS, metrics)
            if self._prepared.spec.keep_model:
                (folder / "model").mkdir()
                with _phase(self._prepared.spec.label, "save"):
                    method.save(folder / "model")
            write_bytes(folder / LOG, self._work.log_path.read_bytes())
            files = {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            write_json(folder / MANIFEST, self._manifest(sets, files))

    def _manifest(self, sets: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
        prepared, spec = self._prepared, self._prepared.spec
        task, cls = prepared.loaded.task, prepared.resolved.method_cls
        capabilities = prepared.resolved.capabilities
        wall, cpu = self._clock.total()
        fit = self._state["fit"] or {}
        earlier = self._state["earlier_seconds"]
        validations = self._state["validations"]
        return {
            "format": FORMAT,
            "run_id": prepared.run_id,
            "status": "done",
            "method": {
                "name": cls.name,
                "version": cls.version,
                "family": str(cls.family),
                "requested_as": spec.method,
                "plugin_sha256": prepared.resolved.plugin_sha256,
                "trainable": capabilities.trainable,
                "transductive": capabilities.transductive,
                "may_leave_unranked": capabilities.may_leave_unranked,
                "needs_text": capabilities.needs_text,
            },
            "target": spec.target,
            "sources": list(spec.sources or ()),
            "profile": spec.profile,
            "seed": spec.seed,
            "init_seed": spec.init_seed,
            "device": spec.device,
            "dtype": spec.dtype,
            "threads": spec.threads or available_threads(),
            "config": prepared.resolved.config_values,
            "spec": spec.portable(),
            "task": {
                "task_hash": task.task_hash,
                "candidates_hash": task.candidates_hash,
                "options": task.options.model_dump(mode="json"),
                "guard": task.guard,
                "guard_counts": jsonable(task.guard_counts),
                "source_hashes": {n: task.source_hashes[n] for n in spec.sources or ()},
                "n_users": task.n_users,
                "n_items": task.n_items,
            },
            "users": {
                "users_hash": prepared.users_hash,
                "n_users": len(prepared.users),
                "limit": spec.limit_users,
            },
            "sets": sets,
            "data": jsonable(prepared.loaded.data),
            "seconds": {
                "fit": round(float(fit.get("seconds", 0.0)), 3),
                "score": round(self._clock.wall.get("score", 0.0), 3),
                "score_sets": round(self._clock.wall.get("score_sets", 0.0), 3),
                "validation": round(sum(v["seconds"] for v in validations), 3),
                "total": round(wall, 3),
                "earlier_attempts": round(earlier, 3),
                "total_with_adapters": round(wall + earlier, 3),
            },
            "cpu_seconds": {
                "fit": round(float(fit.get("cpu_seconds", 0.0)), 3),
                "score": round(self._clock.cpu.get("score", 0.0), 3),
                "total": round(cpu, 3),
            },
            "attempts": self._state["attempts"],
            "peak_memory": self._memory.as_dict(),
            "tokens": self._diagnostics.get("tokens"),
            "diagnostics": self._diagnostics,
            "training": fit.get("training"),
            "validations": validations,
            "packages": package_versions(),
            "hardware": hardware(spec.device),
            "git_revision": git_revision(),
            "started": self._state["started"],
            "finished": utc_now(),
            "files": files,
        }


def _models(work: Work, earlier: StoredRun | None) -> list[Path]:
    """Folders with the fitted model, best first; at most one is used."""
    folders = [work.model]
    if earlier is not None:
        folders.append(earlier.path / "model")
    return [f for f in folders if f.is_dir() and any(f.iterdir())][:1]


def _fit_of(run: StoredRun) -> dict[str, Any]:
    return {
        "seconds": run.manifest["seconds"].get("fit", 0.0),
        "cpu_seconds": run.manifest.get("cpu_seconds", {}).get("fit", 0.0),
        "training": run.manifest.get("training"),
    }


def _training_report(method: Method) -> Any:
    """What a method tells about its training: ``report`` with ``as_dict()``, where it has one."""
    as_dict = getattr(getattr(method, "report", None), "as_dict", None)
    return jsonable(as_dict()) if callable(as_dict) else None


@contextmanager
def _phase(label: str, phase: str) -> Iterator[None]:
    """Name method and phase in errors that are not this package's own."""
    try:
        yield
    except (BenchError, OSError, MemoryError):
        raise
    except Exception as error:
        raise MethodError(
            f"{label}: {phase}() failed with {type(error).__name__}: {error}. "
            "The log has the traceback; `bench check` tests a method on small data."
        ) from error
