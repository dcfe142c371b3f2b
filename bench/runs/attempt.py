"""One attempt at a run: fit (or go on from what a killed attempt left), score, write the folder."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MethodError
from bench.evaluation import Outcomes
from bench.io import atomic_folder, sha256_file, write_bytes, write_json
from bench.methods import Method, Progress
from bench.protocol import RequestSet
from bench.runs.context import RunContext
from bench.runs.environment import MemoryMeter, limit_threads, run_threads
from bench.runs.journal import Journal
from bench.runs.manifest import PreparedRun, RunRecord, manifest
from bench.runs.progress import LoggedProgress
from bench.runs.records import jsonable, metrics_record, per_user_bytes
from bench.runs.scoring import check_candidates, merge_diagnostics
from bench.runs.sets import SetRequest, wanted_sets
from bench.runs.stored import LOG, MANIFEST, METRICS, MODEL, PER_USER, StoredRun, check_file
from bench.runs.work import Work
from bench.validation import (
    Validator,
    check_scores,
    chunk_rows,
    method_phase,
    rank_answers,
    validation_users,
)

__all__ = ["Attempt", "can_save"]


def can_save(method_cls: type[Method]) -> bool:
    """Whether a method can be stored: it has its own ``save``."""
    return method_cls.save is not Method.save


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSet:
    """Outcomes of one request set; ``wanted`` is None for the task's own candidates."""

    wanted: SetRequest | None
    candidates_hash: str
    outcomes: Outcomes


class Attempt:
    """Everything that happens between holding a run's lock and a complete folder in ``work.result``.

    Args:
        prepared: the run.
        work: its work folder.
        progress: reporter.
        checkpoint_seconds: work worth this many seconds is saved.
        earlier: a stored result of this run that lacks something; its model saves the fit.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        work: Work,
        progress: Progress,
        checkpoint_seconds: float,
        earlier: StoredRun | None = None,
    ) -> None:
        self._prepared = prepared
        self._work = work
        self._progress = progress
        self._wanted = wanted_sets(prepared.spec)
        self._checkpoint_seconds = checkpoint_seconds
        self._earlier = earlier
        self._memory = MemoryMeter()
        self._diagnostics: dict[str, Any] = {}

    def run(self, *, anew: bool) -> None:
        """Fit, score and write the run folder; ``anew`` forgets what earlier attempts left.

        Raises:
            BenchError: the method failed or broke its contract.
        """
        journal = Journal.open(self._work, anew=anew)
        spec = self._prepared.spec
        threads = run_threads(spec, self._prepared.resolved.method_cls)
        with self._work.logger() as log, limit_threads(threads) as apply_threads:
            log.info("run %s: %s", self._prepared.run_id, spec.label)
            log.info("attempt %d, %d threads, %s", journal.attempts, threads, spec.device)
            try:
                progress = LoggedProgress(self._progress, log)
                context = self._context(journal, progress, log, threads, apply_threads)
                method = self._fitted(context, journal)
                scored = self._score_all(method, context, journal)
                log.info("scored %d users", len(self._prepared.users))
            except KeyboardInterrupt:
                log.warning("interrupted")
                journal.save()
                raise
            except Exception:
                log.error("failed\n%s", traceback.format_exc())
                journal.save()
                raise
        with self._progress.stage("store the result"):
            self._write(method, scored, journal)

    def _context(
        self,
        journal: Journal,
        progress: Progress,
        log: logging.Logger,
        threads: int,
        apply_threads: Callable[[], None],
    ) -> RunContext:
        """The context of the method. Nothing in it may lead to the task, which holds the test data."""
        resolved, spec = self._prepared.resolved, self._prepared.spec
        task = self._prepared.loaded.task
        requests, labels = task.validation(task.subset(validation_users(resolved.config)))
        adapters = resolved.method_cls.adapter_store()
        if adapters is not None:
            adapters.watch(journal.note_adapters)
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
                requests, labels, resolved.capabilities, on_call=journal.note_validation
            ),
            adapters=adapters,
            before_scoring=apply_threads,
        )

    def _fitted(self, context: RunContext, journal: Journal) -> Method:
        """The fitted method: loaded where an earlier attempt or the stored run has it, else fitted."""
        resolved = self._prepared.resolved
        method = resolved.method_cls(resolved.config)
        context.before_scoring()
        folder = self._model_folder()
        if folder is not None:
            with method_phase(resolved.spec.label, "load"):
                method.load(folder)
            context.log.info("loaded the fitted model instead of fitting again")
            if journal.fit is None and self._earlier is not None:
                journal.fit = _fit_of(self._earlier)
                for use in self._earlier.manifest.get("adapters", []):
                    journal.adapters.setdefault(use["adapter_id"], dict(use))
            return method
        if resolved.capabilities.trainable:
            # Scores of a fit that cannot be restored do not belong to the fit that follows.
            self._work.drop_parts()
        view = self._prepared.loaded.task.train_view(
            with_sources=resolved.capabilities.needs_sources,
            transductive=resolved.capabilities.transductive,
            item_columns=resolved.capabilities.item_columns,
        )
        with (
            context.progress.stage(f"fit {resolved.spec.label}"),
            journal.phase("fit"),
            method_phase(resolved.spec.label, "fit"),
        ):
            method.fit(view, context)
        # Of a fit that only fetched adapters little is lost, but the scores that follow are worth keeping.
        worth_saving = (
            journal.wall["fit"] >= self._checkpoint_seconds or context.adapters is not None
        )
        if worth_saving and can_save(resolved.method_cls):
            self._work.save_model(method)
        journal.finish_fit(_training_report(method))
        return method

    def _model_folder(self) -> Path | None:
        """Folder with the fitted model of an earlier attempt or of the stored run."""
        if self._work.model.is_dir():
            return self._work.model
        if self._earlier is None or self._earlier.manifest.get("model") != "stored":
            return None
        for name in self._earlier.manifest["files"]:
            if name.startswith(f"{MODEL}/"):
                check_file(self._earlier.path, name, self._earlier.manifest["files"])
        return self._earlier.path / MODEL

    def _score_all(self, method: Method, context: RunContext, journal: Journal) -> list[ScoredSet]:
        task, users = self._prepared.loaded.task, self._prepared.users
        scored = []
        for wanted in (None, *self._wanted):
            requests = task.test(users) if wanted is None else wanted.build(task, users)
            name = "test candidates" if wanted is None else wanted.label
            with (
                context.progress.stage(f"score {self._prepared.spec.label}: {name}"),
                journal.phase("score" if wanted is None else "score_sets"),
            ):
                outcomes, diagnostics = self._score(method, context, requests, journal)
            if wanted is None:
                self._diagnostics = diagnostics
            scored.append(ScoredSet(wanted, requests.candidates_hash, outcomes))
        return scored

    def _score(
        self, method: Method, context: RunContext, requests: RequestSet, journal: Journal
    ) -> tuple[Outcomes, dict[str, Any]]:
        """Score one request set in chunks, going on from the chunks of an earlier attempt."""
        resolved = self._prepared.resolved
        owner, capabilities = resolved.method_cls.name, resolved.capabilities
        check_candidates(capabilities, requests.n_candidates, owner)
        part = requests.candidates_hash[:16]
        saved = self._work.load_part(part)
        parts, diagnostics = ([saved[0]], saved[1]) if saved is not None else ([], {})
        done = sum(len(p) for p in parts)
        row, last_save = 0, time.perf_counter()
        size = chunk_rows(requests.n_candidates)
        if resolved.method_cls.score_rows is not None:
            size = max(1, min(size, resolved.method_cls.score_rows))
        if done % size and done != requests.n:
            # Saved by a version with chunks of another size: they would not line up.
            parts, diagnostics, done = [], {}, 0
        for chunk, labels in context.progress.track(
            requests.chunks(size), total=-(-requests.n // size), description="score"
        ):
            row += len(chunk)
            if row <= done:
                continue
            context.before_scoring()
            with method_phase(resolved.spec.label, "score"):
                scores = method.score(chunk, context)
            check_scores(scores, chunk, capabilities, owner)
            parts.append(rank_answers(scores, labels, capabilities, owner, chunk.users))
            merge_diagnostics(diagnostics, _json_diagnostics(scores.diagnostics, owner))
            if time.perf_counter() - last_save >= self._checkpoint_seconds:
                self._work.save_part(part, Outcomes.concat(parts), diagnostics)
                journal.save()
                last_save = time.perf_counter()
        return Outcomes.concat(parts), diagnostics

    def _write(self, method: Method, scored: list[ScoredSet], journal: Journal) -> None:
        with atomic_folder(self._work.result, replace=True) as folder:
            sets, metrics = _write_outcomes(folder, self._prepared.users, scored)
            write_json(folder / METRICS, metrics)
            model = self._write_model(folder, method)
            write_bytes(folder / LOG, self._work.log_path.read_bytes())
            record = RunRecord(
                prepared=self._prepared,
                journal=journal,
                diagnostics=self._diagnostics,
                sets=sets,
                model=model,
                memory=self._memory.as_dict(),
                files={
                    path.relative_to(folder).as_posix(): sha256_file(path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                },
            )
            write_json(folder / MANIFEST, manifest(record))

    def _write_model(self, folder: Path, method: Method) -> str:
        """Store the model where it is asked for; say what became of it."""
        spec = self._prepared.spec
        if not spec.keep_model:
            return "not asked"
        if not can_save(self._prepared.resolved.method_cls):
            return "not supported"
        (folder / MODEL).mkdir()
        with method_phase(spec.label, "save"):
            method.save(folder / MODEL)
        return "stored"


def _write_outcomes(
    folder: Path, users: NDArray[np.int32], scored: list[ScoredSet]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the Parquet files; return the manifest's ``sets`` and the content of metrics.json."""
    sets: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for one in scored:
        figures = metrics_record(one.outcomes)
        if one.wanted is None:
            write_bytes(folder / PER_USER, per_user_bytes(users, one.outcomes))
            metrics |= figures
            continue
        file = f"sets/{one.candidates_hash[:16]}.parquet"
        write_bytes(folder / file, per_user_bytes(users, one.outcomes))
        sets[one.candidates_hash] = {
            "kind": one.wanted.kind,
            "candidate_seed": one.wanted.candidate_seed,
            "file": file,
        }
        metrics.setdefault("sets", {})[one.candidates_hash] = figures
    return sets, metrics


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


def _json_diagnostics(diagnostics: object, owner: str) -> dict[str, Any]:
    """Diagnostics as JSON values. A training report is no counter and has its own field."""
    try:
        values = jsonable(diagnostics)
    except (TypeError, ValueError) as error:
        raise MethodError(
            f"{owner}: Scores.diagnostics is not JSON ({error}). Use numbers, texts, lists and "
            "mappings only, and neither NaN nor infinity."
        ) from error
    if not isinstance(values, dict):
        raise MethodError(
            f"{owner}: Scores.diagnostics is {type(diagnostics).__name__}, expected a mapping."
        )
    return {key: value for key, value in values.items() if key != "training"}
