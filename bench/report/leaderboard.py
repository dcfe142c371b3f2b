"""Stored runs of one target to one table. Needs neither torch nor any method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.evaluation import (
    Outcomes,
    bootstrap_interval,
    metric_per_user,
    random_row,
    tie_report,
)
from bench.evaluation.metrics import parse_metric
from bench.report.caption import caption_lines, protocol_record
from bench.report.select import Series, choose_task, choose_users, group_series
from bench.report.table import Block, Figure, Row, Table, mark_rows, sort_rows
from bench.report.writers import to_csv, to_json, to_markdown

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["DISPLAYED", "build_table", "to_csv", "to_json", "to_markdown"]

DISPLAYED: tuple[str, ...] = ("ndcg@1", "ndcg@3", "ndcg@5", "mrr@5")
"""The columns of the paper's tables."""

RANDOM = "random"
_DECIMALS = 12


def build_table(
    runs: Sequence[StoredRun],
    target: str,
    *,
    primary: str = "ndcg@5",
    metrics: Sequence[str] = DISPLAYED,
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
    ci: bool = False,
) -> Table:
    """Build the table of one target.

    Every row is the default configuration of one method and profile. Seeds are averaged per user,
    then users are averaged. The row ``random`` is the closed form over the users of the main block;
    stored runs of that method are not repeated beside it.

    Args:
        runs: stored runs; those of other targets and tasks are left out.
        target: target domain.
        primary: metric that sorts the rows of a family, best first.
        metrics: displayed metrics; ``primary`` is added where it is missing.
        profile: only this profile; None = all that have runs.
        users: number of users of the main block; None = all users of the task. Methods with only
            other users stand in a second block, unmarked, each with its own n.
        task: first digits of the task hash; None = the standard protocol.
        all_configs: also show configurations other than the default, labelled by their difference.
        ci: also compute 95 % bootstrap intervals (2,000 resamples, seed 0).

    Returns:
        The table; the same runs always give an equal one, in whatever order they come.

    Raises:
        ResultError: no runs of this target, or a damaged one.
        ConfigError: an unknown metric, task, profile or number of users, or an ambiguous task.
    """
    shown = tuple(dict.fromkeys([*metrics, *([] if primary in metrics else [primary])]))
    for metric in shown:
        parse_metric(metric)
    found, notes = choose_task(sorted(runs, key=lambda r: (r.run_id, str(r.path))), target, task)
    if profile is not None and profile not in {run.profile for run in found}:
        known = ", ".join(sorted({run.profile for run in found}))
        raise ConfigError(
            f"no runs of profile {profile!r} for {target}; profiles on record: {known}."
        )
    chosen = choose_users(found, users)
    series, more = group_series(found, profile=profile, all_configs=all_configs)
    notes += more
    labels = _labels(series)

    main: list[Row] = []
    rest: list[Row] = []
    for one in series:
        if one.first.method == RANDOM and one.is_default:
            continue
        covering = one.covering(chosen)
        if covering:
            main.append(_row(one, covering, chosen, labels[one], shown, ci))
        else:
            widest = one.widest()
            rest.append(_row(one, widest, widest[0].users, labels[one], shown, ci))
    n_candidates = _n_candidates(found, chosen)
    main.append(_random_row(n_candidates, len(chosen), shown, ci))
    blocks = [Block("", mark_rows(sort_rows(main, primary), shown))]
    if rest:
        blocks.append(
            Block("Other users (not comparable)", tuple(sort_rows(rest, primary)), comparable=False)
        )
    protocol = protocol_record(found[0], n_candidates)
    command = _command(target, primary, profile, users, task, all_configs, ci)
    return Table(
        target=target,
        task_hash=found[0].task_hash,
        candidates_hash=found[0].candidates_hash,
        protocol=protocol,
        metrics=shown,
        primary=primary,
        blocks=tuple(blocks),
        caption=caption_lines(protocol, blocks, len(chosen), shown, primary, ci, notes),
        with_intervals=ci,
        command=command,
    )


def _labels(series: Sequence[Series]) -> dict[Series, str]:
    """Names of the rows: the method, and whatever tells two rows of one method apart."""
    labels = {}
    for one in series:
        run = one.first
        same = [
            other.first
            for other in series
            if other.first.method == run.method and other.first.profile == run.profile
        ]
        extra = [f"{key}={value}" for key, value in one.overrides]
        if run.sources and len({other.sources for other in same}) > 1:
            extra.append("sources " + "+".join(run.sources))
        for key in ("dtype", "init_seed"):
            if len({str(other.manifest.get(key)) for other in same}) > 1:
                extra.append(f"{key} {run.manifest.get(key)}")
        plugin = run.manifest["method"].get("plugin_sha256")
        if plugin and any(not r.manifest["method"].get("plugin_sha256") for r in same):
            extra.append(f"plugin {plugin[:8]}")
        labels[one] = f"{run.method} ({', '.join(extra)})" if extra else run.method
    return labels


def _row(
    one: Series,
    runs: Sequence[StoredRun],
    users: NDArray[np.int32],
    label: str,
    metrics: Sequence[str],
    ci: bool,
) -> Row:
    """One row over ``users``, averaged over the seeds of ``runs``."""
    outcomes = [_restrict(run, users) for run in runs]
    figures = {}
    for metric in metrics:
        total = metric_per_user(outcomes[0], metric)
        for other in outcomes[1:]:
            total = total + metric_per_user(other, metric)
        figures[metric] = _figure(total / len(outcomes), ci)
    record = one.first.manifest
    ties = [tie_report(one_seed, metrics) for one_seed in outcomes]
    flags = ["transductive"] if record["method"].get("transductive") else []
    flags += ["ties"] if any(report.needs_footnote for report in ties) else []
    times = [float(run.manifest["seconds"].get("fit", math.nan)) for run in runs]
    seconds = math.fsum(times) / len(times)
    return Row(
        method=one.first.method,
        label=label,
        family=one.first.family,
        profile=one.first.profile,
        seeds=tuple(run.seed for run in runs),
        n_users=len(users),
        figures=figures,
        run_ids=tuple(run.run_id for run in runs),
        config=one.first.config,
        sources=one.first.sources,
        flags=tuple(flags),
        share_tied=round(math.fsum(report.share_tied for report in ties) / len(ties), _DECIMALS),
        tie_gap=round(max(f.gap for r in ties for f in r.metrics.values()), _DECIMALS),
        seconds_fit=None if math.isnan(seconds) else round(seconds, 3),
    )


def _restrict(run: StoredRun, users: NDArray[np.int32]) -> Outcomes:
    """Outcomes of ``users``, all of which the run has scored (both ascending)."""
    outcomes = run.outcomes()
    if run.n_users == len(users):
        return outcomes
    return outcomes.take(np.searchsorted(run.users, users))


def _figure(values: NDArray[np.float64], ci: bool) -> Figure:
    # fsum is exact, so that the mean does not depend on how a processor orders the additions.
    mean = round(math.fsum(values.tolist()) / len(values), _DECIMALS)
    if not ci:
        return Figure(mean)
    low, high = bootstrap_interval(values)
    return Figure(mean, (round(low, _DECIMALS), round(high, _DECIMALS)))


def _n_candidates(runs: Sequence[StoredRun], users: NDArray[np.int32]) -> NDArray[np.int32]:
    """Candidates that compete, per user of the main block (or of any run, if none has them)."""
    one = Series(tuple(runs), True, ())
    covering = one.covering(users)
    if covering:
        return _restrict(covering[0], users).n_candidates
    return one.widest()[0].outcomes().n_candidates


def _random_row(
    n_candidates: NDArray[np.int32], n_users: int, metrics: Sequence[str], ci: bool
) -> Row:
    means = random_row(n_candidates, metrics)
    figures = {}
    for metric, mean in means.items():
        value = round(mean, _DECIMALS)
        figures[metric] = Figure(value, (value, value) if ci else None)
    return Row(
        method=RANDOM,
        label=f"{RANDOM} (closed form)",
        family="reference",
        profile="",
        seeds=(),
        n_users=n_users,
        figures=figures,
    )


def _command(
    target: str,
    primary: str,
    profile: str | None,
    users: int | None,
    task: str | None,
    all_configs: bool,
    ci: bool,
) -> str:
    parts = ["bench leaderboard", f"--target {target}"]
    if primary != "ndcg@5":
        parts.append(f"--primary {primary}")
    if profile is not None:
        parts.append(f"--profile {profile}")
    if users is not None:
        parts.append(f"--users {users}")
    if task is not None:
        parts.append(f"--task {task}")
    parts += ["--all-configs"] * all_configs + ["--ci"] * ci
    return " ".join(parts)
