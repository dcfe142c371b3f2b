"""Whether a run was trained long enough to stand for its method.

A run stands for its method if every stage of its training saw the number of rows that the authors'
regime gives, if its validation curve is past its best, or if it waited as long as the authors do and ended
on a flat curve; a training that says of itself that it ended at chance never does. What decides is read
from the manifest alone, so that runs of every age are judged by one rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "TOLERANCE",
    "WHY_SHORT",
    "Budget",
    "Curve",
    "Stage",
    "examine_curve",
    "is_short",
    "judge",
    "regime_text",
]

TOLERANCE = 0.005
"""Gain of NDCG@5 that a flat curve may hide, at 95 % confidence. A choice: half of what the median test of two
rows of one committed table detects with 80 % power (0.0097)."""

WHY_SHORT = "trained for less than its authors' regime without a validation curve that is flat, or left at chance"
"""What the mark of such a row means."""

_CONFIDENT = 1.645  # one-sided, 95 %

Verdict = Literal["whole", "flat", "past its best", "short"]
_Rows = Literal["events", "targets", "users", "examples"]


@dataclass(frozen=True, slots=True)
class _Regime:
    """How long the authors train one stage.

    Attributes:
        passes: passes over the rows, at most.
        rows: what a row is: every ``events`` of the training sequences, every one that has a history
            (``targets``), one for each of the ``users``, or LLM training ``examples``.
        where: whose rows: of the target, of the sources, or of both.
        patience: epochs without a gain after which the authors stop; None if they never do.
        fraction: a pass is over one of so many parts of the rows.
    """

    passes: int
    rows: _Rows
    where: Literal["target", "sources", "all"] = "target"
    patience: int | None = None
    fraction: int = 1


# Sources: RecBole 1.2.1's overall.yaml; the defaults of the authors' released training scripts.
_RECBOLE = {"training": _Regime(300, "targets", patience=10)}
_TRANSFERABLE = {**_RECBOLE, "pre-training": _Regime(300, "targets", "sources")}
_REGIMES: Mapping[str, Mapping[str, _Regime]] = {
    "gru4rec": _RECBOLE,
    "sasrec": _RECBOLE,
    "bert4rec": _RECBOLE,
    "fmlp-rec": {"training": _Regime(200, "events", patience=10)},
    "mcrpl": {"stage-1": _Regime(50, "users", "all"), "training": _Regime(30, "users")},
    "unisrec": _TRANSFERABLE,
    "vq-rec": {**_TRANSFERABLE, "alignment": _Regime(5, "targets")},
    "recformer": {
        "pre-training": _Regime(32, "users", "sources"),
        # Fine-tuned on a random fifth of the users, drawn when the authors made their data.
        "stage 1": _Regime(16, "users", patience=5, fraction=5),
        "training": _Regime(16, "users", patience=3, fraction=5),
    },
    "llm-rec": {"training": _Regime(50, "targets", "all")},
}
# The study trains each adapter for two epochs on up to 40,000 samples of every domain.
_ADAPTERS = {"adapters": _Regime(2, "examples")}
_MOST_EXAMPLES = 40_000


@dataclass(frozen=True, slots=True)
class Curve:
    """What the end of a validation curve says.

    Attributes:
        noise: SD of one figure around a smooth curve, from its second differences.
        gain: 95 % upper bound of what waiting as long again would gain, if the trend of the epochs after
            the best one went on.
    """

    noise: float
    gain: float


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: ``training`` for the main one, ``adapters`` for those of a language model.
        rows: training rows seen.
        authors: rows that the authors' regime gives at most.
        epochs: epochs trained; 0 if the manifest does not say.
        best_epoch: the epoch that was kept.
        curve: what its validation curve says; None without one.
        verdict: why it counts, or ``short``.
        warnings: what the training said of itself.
    """

    name: str
    rows: int
    authors: int
    epochs: int
    best_epoch: int
    curve: Curve | None
    verdict: Verdict
    warnings: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Rows seen as a share of the authors' budget."""
        return self.rows / self.authors


@dataclass(frozen=True, slots=True)
class Budget:
    """The stages of one run's training."""

    stages: tuple[Stage, ...]

    @property
    def short(self) -> tuple[Stage, ...]:
        """The stages that were trained too little to stand for the method."""
        return tuple(stage for stage in self.stages if stage.verdict == "short")

    @property
    def share(self) -> float | None:
        """The smallest share of the authors' budget among the short stages; None if there are none."""
        return min((stage.share for stage in self.short), default=None)


def judge(run: StoredRun) -> Budget | None:
    """Judge the training of a run.

    Returns:
        The budget; None for methods without training, for those whose authors' regime is unknown
        (plugins, imported scores), and for manifests that do not say how large the domains are.
    """
    manifest = run.manifest
    if not manifest["method"].get("trainable", True) or run.imported is not None:
        return None
    if not {run.target, *run.sources} <= _sizes(run).keys():
        return None
    training = manifest.get("training") or {}
    reports = {**training.get("stages", {}), "training": training}
    regimes = _regimes(run)
    found = [
        _stage(name, regime, reports.get(name, {}), run)
        for name, regime in regimes.items()
        if name == "adapters" or reports.get(name, {}).get("history")
    ]
    return Budget(tuple(found)) if found else None


def is_short(run: StoredRun) -> bool:
    """Whether a run was trained too little to stand for its method."""
    found = judge(run)
    return found is not None and bool(found.short)


def regime_text() -> list[str]:
    """What the authors train, a Markdown list item for every method and stage."""
    known = {**_REGIMES, "recbole:NAME": _RECBOLE, "adapters of language models": _ADAPTERS}
    rows = {
        "events": "every training event",
        "targets": "every training event but a user's first",
        "users": "one row for each user",
        "examples": f"every training event but a user's first, {_MOST_EXAMPLES:,} of a domain at most",
    }
    where = {"target": "the target", "sources": "the sources", "all": "the target and the sources"}
    return [
        f"- {method}, {stage}: {regime.passes} epochs at most; {rows[regime.rows]} of {where[regime.where]}"
        + (f", on a random part of one in {regime.fraction}" if regime.fraction > 1 else "")
        + (f"; stops after {regime.patience} epochs without a gain" if regime.patience else "")
        for method, stages in known.items()
        for stage, regime in stages.items()
    ]


def _regimes(run: StoredRun) -> Mapping[str, _Regime]:
    if run.manifest["method"].get("plugin_sha256"):
        return {}
    if run.method.startswith("recbole:"):
        return _RECBOLE
    if "train_examples" in run.config:
        return _ADAPTERS
    return _REGIMES.get(run.method, {})


def _stage(name: str, regime: _Regime, report: Mapping[str, Any], run: StoredRun) -> Stage:
    authors = regime.passes * _pass(regime, run) // regime.fraction
    history = report.get("history", [])
    rows = _seen(name, regime, run, len(history))
    figures = [entry["ndcg@5"] for entry in history if "ndcg@5" in entry]
    best = int(report.get("best_epoch") or 0)
    waited = len(history) - best
    curve = examine_curve(figures, waited)
    warnings = tuple(report.get("warnings", ()))
    verdict: Verdict = "short"
    if not warnings:
        if rows >= authors:
            verdict = "whole"
        elif curve is not None and curve.gain < 0:
            verdict = "past its best"
        elif curve is not None and curve.gain <= TOLERANCE and _waited_enough(regime, waited):
            verdict = "flat"
    return Stage(name, rows, authors, len(history), best, curve, verdict, warnings)


def _waited_enough(regime: _Regime, waited: int) -> bool:
    return regime.patience is not None and waited >= regime.patience


def examine_curve(figures: Sequence[float], waited: int) -> Curve | None:
    """Examine the end of a validation curve.

    Args:
        figures: validation NDCG@5 by epoch, shape ``(n,)``.
        waited: epochs after the best one. The best one itself is left out of the trend: it was chosen
            for being the highest, so that any curve would fall from it.

    Returns:
        The findings; None for fewer than three epochs after the best one, of which nothing can be said.
    """
    values = np.asarray(figures, np.float64)
    if waited < 3 or len(values) <= waited:
        return None
    # White noise of variance v has second differences of variance 6 v, whatever the slope.
    bends = np.diff(values[-(2 * waited + 2) :], 2)
    noise = math.sqrt(float(np.mean(bends**2)) / 6)
    place = np.arange(waited) - (waited - 1) / 2
    spread = float((place**2).sum())
    slope = float((place * values[-waited:]).sum()) / spread
    return Curve(noise, waited * (slope + _CONFIDENT * noise / math.sqrt(spread)))


def _pass(regime: _Regime, run: StoredRun) -> int:
    """Rows of one pass of the authors."""
    sizes = _sizes(run)
    chosen = {
        "target": [run.target],
        "sources": list(run.sources),
        "all": [run.target, *run.sources],
    }[regime.where]
    return sum(_count(regime.rows, *sizes[name]) for name in chosen)


def _count(rows: _Rows, events: int, users: int) -> int:
    if rows == "users":
        return users
    if rows == "events":
        return events
    # A user's first event has no history.
    return min(events - users, _MOST_EXAMPLES if rows == "examples" else events)


def _seen(name: str, regime: _Regime, run: StoredRun, epochs: int) -> int:
    """Rows that a stage saw; ``epochs`` is the length of its history."""
    config = run.config
    whole = _pass(regime, run)
    if name == "adapters":
        each = config["train_examples"]
        return int(config["training"]["epochs"]) * (whole if each is None else min(each, whole))
    if run.method == "llm-rec":
        # An entry of its history is a round of steps; the last one may be shorter.
        most = (
            config["epochs"] * whole
            if config["steps"] is None
            else config["steps"] * config["batch_size"]
        )
        return int(min(epochs * config["check_steps"] * config["batch_size"], most))
    if run.method == "recformer":
        prefix = "pretrain_" if name == "pre-training" else ""
        steps = config[f"{prefix}steps"]
        return int(epochs * (whole if steps is None else steps * config[f"{prefix}batch_size"]))
    if name == "pre-training":
        return epochs * min(config["pretrain_rows"] or whole, whole)
    return epochs * _rows_of_kind(name, regime, run)


def _rows_of_kind(name: str, regime: _Regime, run: StoredRun) -> int:
    """Rows of an epoch by what the setting ``rows`` says an epoch is."""
    kind = run.config.get("rows")
    if kind is None or name == "alignment":
        return _pass(regime, run)
    if run.method == "bert4rec":
        return int(run.config["fresh_masks"]) * _pass(
            _Regime(1, "targets" if kind == "prefixes" else "users"), run
        )
    rows: _Rows = "users" if kind in ("random-prefix", "last") else "targets"
    return _pass(_Regime(1, rows, regime.where), run)


def _sizes(run: StoredRun) -> dict[str, tuple[int, int]]:
    """Training events and users of every domain of the run."""
    data = run.manifest.get("data") or {}
    guarded = (run.manifest["task"].get("guard_counts") or {}).get("domains", {})
    found = {}
    for name, described in data.items():
        if not {"events", "users"} <= described.keys():
            continue
        events, users = int(described["events"]), int(described["users"])
        # Two events of every user are held out.
        trained = guarded.get(name, {}).get("training_events", events - 2 * users)
        found[name] = (int(trained), users)
    return found
