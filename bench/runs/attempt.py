"""One attempt at a run: fit (or go on from what a killed attempt left), score, write the folder."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.enclosure import (
    Enclosure,
    conformance,
    counted_steps,
    enclose_run,
    known_formula,
    restored,
    shuffled,
    trained_silently,
)
from bench.errors import MethodError
from bench.evaluation import Outcomes, metric_per_user
from bench.io import atomic_folder, sha256_file, write_bytes, write_json
from bench.methods import Method, Progress, Requests, Scores
from bench.protocol import RequestSet
from bench.runs.context import RunContext
from bench.runs.environment import MemoryMeter, limit_threads, run_threads
from bench.runs.journal import Journal
from bench.runs.manifest import PreparedRun, RunRecord, manifest
from bench.runs.progress import LoggedProgress
from bench.runs.records import metrics_record, per_user_bytes
from bench.runs.scoring import (
    check_candidates,
    json_diagnostics,
    merge_diagnostics,
    training_report,
)
from bench.runs.sets import SetRequest, wanted_sets
from bench.runs.stored import LOG, METRICS, MODEL, PER_USER, StoredRun, check_file, write_manifest
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

_COMPARED, _COMPARED_SLOWLY = 300, 100
"""Users that a plugin, or a slow one, scores on sets of a secret seed as well."""


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
        self._enclosure: Enclosure | None = None
        self._secret = 0
        self._conformance: str | None = None

    def run(self, *, anew: bool) -> None:
        """Fit, score and write the run folder; ``anew`` forgets what earlier attempts left.

        Raises:
            BenchError: the method failed or broke its contract.
        """
        resolved = self._prepared.resolved
        self._conformance = conformance(resolved.method_cls, resolved.config)
        with self._enclosed() as self._enclosure:
            journal = Journal.open(self._work, anew=anew)
            self._secret = self._work.secret_seed()  # before code of a method may change the folder
            method, scored = self._fit_and_score(journal)
            with self._progress.stage("store the result"):
                self._write(method, scored, journal)

    def _fit_and_score(self, journal: Journal) -> tuple[Method, list[ScoredSet]]:
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
        return method, scored

    @contextmanager
    def _enclosed(self) -> Iterator[Enclosure | None]:
        """Where a plugin runs; None for a method of this package, whose source is reviewed."""
        resolved, spec = self._prepared.resolved, self._prepared.spec
        if resolved.plugin_sha256 is None:
            yield None
            return
        earlier = () if self._earlier is None else (self._earlier.path / MODEL,)
        with enclose_run(
            spec.label,
            resolved.method_cls,
            self._prepared.loaded.task.domains,
            data_root=spec.data_root,
            store=self._work.folder.parents[1],
            free=(self._work.folder, *earlier),
            data=() if spec.candidates is None else (spec.candidates,),
            runs=self._work.ranks,
        ) as enclosure:
            yield enclosure

    @contextmanager
    def _phase(self, name: str, *free: Path, **inputs: Any) -> Iterator[None]:
        """Code of the method runs in the block; a plugin's is enclosed, see :mod:`bench.enclosure`."""
        enclosure: AbstractContextManager[None] = nullcontext()
        if self._enclosure is not None:
            enclosure = self._enclosure.phase(name, *free, **inputs)
        with method_phase(self._prepared.spec.label, name), enclosure:
            yield

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
        """The fitted method: loaded if an earlier attempt or the stored run has it, else fitted."""
        resolved = self._prepared.resolved
        with self._phase("__init__"):
            method = resolved.method_cls(resolved.config)
        context.before_scoring()
        folder = self._model_folder()
        if folder is not None:
            with self._phase("load"):
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
        counted: AbstractContextManager[list[str]] = nullcontext([])
        if self._enclosure is not None and not resolved.capabilities.trainable:
            counted = counted_steps(resolved.method_cls)
        view = self._prepared.loaded.task.train_view(
            with_sources=resolved.capabilities.needs_sources,
            transductive=resolved.capabilities.transductive,
            item_columns=resolved.capabilities.item_columns,
        )
        with (
            context.progress.stage(f"fit {resolved.spec.label}"),
            journal.phase("fit"),
            counted as steps,
            self._phase("fit", view=view),
        ):
            method.fit(view, context)
        if steps:
            raise MethodError(trained_silently(resolved.spec.label, steps))
        # Of a fit that only fetched adapters little is lost, but the scores that follow are worth keeping.
        worth_saving = (
            journal.wall["fit"] >= self._checkpoint_seconds or context.adapters is not None
        )
        if worth_saving and can_save(resolved.method_cls):
            # Kept, so that a kill while scoring does not cost the fit.
            with atomic_folder(self._work.model, replace=True) as model:
                self._save(method, model)
        journal.finish_fit(training_report(method))
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
                if self._enclosure is not None:
                    with context.progress.stage("compare with secret candidates"):
                        self._compare_with_secret_sets(method, context, journal, outcomes)
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
        saved = self._work.load_part(part, self._secret)
        parts, diagnostics = ([saved[0]], saved[1]) if saved is not None else ([], {})
        done = sum(len(p) for p in parts)
        row, last_save = 0, time.perf_counter()
        size = self._chunk_size(requests)
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
            scores = self._answer(method, context, chunk)
            parts.append(rank_answers(scores, labels, capabilities, owner, chunk.users))
            merge_diagnostics(diagnostics, json_diagnostics(scores.diagnostics, owner))
            if time.perf_counter() - last_save >= self._checkpoint_seconds:
                self._work.save_part(part, Outcomes.concat(parts), diagnostics, self._secret)
                journal.save()
                last_save = time.perf_counter()
        return Outcomes.concat(parts), diagnostics

    def _chunk_size(self, requests: RequestSet) -> int:
        most = self._prepared.resolved.method_cls.score_rows
        size = chunk_rows(requests.n_candidates)
        return size if most is None else max(1, min(size, most))

    def _answer(self, method: Method, context: RunContext, requests: Requests) -> Scores:
        """Checked scores; a plugin gets the candidates in an order that no rule tells."""
        resolved, order = self._prepared.resolved, None
        given = requests
        if self._enclosure is not None:
            given, order = shuffled(requests, np.random.default_rng())
        with self._phase("score", requests=given):
            scores = method.score(given, context)
        check_scores(scores, given, resolved.capabilities, resolved.method_cls.name)
        return restored(scores, order)

    def _compare_with_secret_sets(
        self, method: Method, context: RunContext, journal: Journal, outcomes: Outcomes
    ) -> None:
        """Score some users on sets that nobody can draw; a method that knows the public ones fails.

        Raises:
            MethodError: it is clearly better on the public sets than on those.
        """
        task, users = self._prepared.loaded.task, self._prepared.users
        if task.options.negatives not in ("uniform", "popularity"):
            return
        resolved = self._prepared.resolved
        most = _COMPARED if resolved.method_cls.score_rows is None else _COMPARED_SLOWLY
        chosen = np.intersect1d(users, task.subset(most)) if len(users) > most else users
        began, cpu_began = time.perf_counter(), time.process_time()
        requests = task.secret_test(chosen, self._secret)
        secret, _ = self._score(method, context, requests, journal)
        journal.leave_out(time.perf_counter() - began, time.process_time() - cpu_began)
        public = metric_per_user(outcomes, "ndcg@5")[np.isin(users, chosen)]
        fault = known_formula(public, metric_per_user(secret, "ndcg@5"))
        if fault:
            raise MethodError(f"{resolved.spec.label} {fault}.")

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
                conformance=self._conformance,
                files={
                    path.relative_to(folder).as_posix(): sha256_file(path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                },
            )
            write_manifest(folder, manifest(record))

    def _write_model(self, folder: Path, method: Method) -> str:
        """Store the model if it is asked for; say what became of it."""
        spec = self._prepared.spec
        if not spec.keep_model:
            return "not asked"
        if not can_save(self._prepared.resolved.method_cls):
            return "not supported"
        (folder / MODEL).mkdir()
        self._save(method, folder / MODEL)
        return "stored"

    def _save(self, method: Method, folder: Path) -> None:
        with self._phase("save", folder):
            method.save(folder)


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
