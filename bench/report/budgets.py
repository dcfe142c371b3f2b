"""How much the runs behind the leaderboards were trained, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.io import canonical_json
from bench.report.columns import EN_RULE
from bench.report.labels import run_labels
from bench.report.plain import count_text, share_text
from bench.report.table import FLAGS, family_key
from bench.report.writers import escape_markdown
from bench.runs.budgets import TOLERANCE, Budget, Stage, judge, regime_text

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["budget_page"]

_HEADERS = (
    *("Method", "Seed", "Stage", "Rows seen", "Of the authors' most", "Best epoch", "Noise"),
    *("Gain at most", "Verdict"),
)
_ALIGN = ["left", "right", "left", *["right"] * 5, "left"]

_RULE = f"""\
A trained row is published as its method's only if every stage of its training

- saw as many rows as the authors train on at most (*whole*),
- or has a validation curve that is *past its best*: its trend after the best epoch falls, at 95 % confidence,
- or waited as long as the authors do after its best epoch and ended on a *flat* curve: the trend of these epochs,
  continued for as many again, gains at most {TOLERANCE:g} NDCG@5, at 95 % confidence.

All others are *short*. They carry the mark {FLAGS["budget"]} in the tables and stay out of the readings. Adapters of
language models and first stages have no validation curve, so that only the number of rows counts. A training that
says of itself that it ended at chance is short, whatever it saw.

Rows seen: training rows, summed over epochs. Noise: standard deviation of one validation figure around a smooth
curve, from its second differences; it shrinks with more validation users. Gain at most: the 95 % bound
that is compared with zero or {TOLERANCE:g}; {EN_RULE} = no curve, or one that is too short."""


def budget_page(runs: Sequence[StoredRun], command: str) -> str:
    """The evidence behind every trained run and what the short ones need, as Markdown.

    Args:
        runs: stored runs.
        command: the command line that makes the page.
    """
    judged = [(run, found) for run in runs if (found := judge(run)) is not None]
    short = [(run, found) for run, found in judged if found.short]
    lines = ["# Training budgets", "", f"Made by `{command}`; do not edit.", "", _RULE, ""]
    lines += [
        f"Of {count_text(len(judged), 'trained run')} {len(short):,} "
        f"{'is' if len(short) == 1 else 'are'} short.",
        "",
        "## What the authors train",
        "",
        *regime_text(),
        "",
    ]
    for target, group in groupby(sorted(judged, key=_order), key=lambda pair: pair[0].target):
        pairs = list(group)
        labels = _labels([run for run, _ in pairs])
        body = [line for run, budget in pairs for line in _lines(labels[run], run, budget)]
        lines += [f"## {escape_markdown(target)}", "", _table(body), ""]
    lines += _what_it_takes(short)
    return "\n".join(lines).rstrip("\n") + "\n"


def _labels(runs: Sequence[StoredRun]) -> dict[StoredRun, str]:
    """Names of runs by what they differ in; seeds have a column of their own."""

    def key(run: StoredRun) -> tuple[object, ...]:
        version = run.manifest["method"]["version"]
        return run.method, version, run.profile, canonical_json(run.config), run.sources

    first = {key(run): run for run in reversed(runs)}
    names = dict(zip(first, run_labels(list(first.values())), strict=True))
    return {run: names[key(run)] for run in runs}


def _order(pair: tuple[StoredRun, Budget]) -> tuple[object, ...]:
    run = pair[0]
    return run.target, family_key(run.family), run.method, run.seed, run.run_id


def _table(body: Sequence[Sequence[str]]) -> str:
    return tabulate(body, _HEADERS, tablefmt="pipe", colalign=_ALIGN, disable_numparse=True)


def _lines(label: str, run: StoredRun, budget: Budget) -> list[list[str]]:
    lines = [
        [
            "",
            "",
            stage.name,
            f"{stage.rows:,}",
            share_text(stage.share),
            f"{stage.best_epoch} of {stage.epochs}" if stage.epochs else EN_RULE,
            *_curve(stage),
            "; ".join((stage.verdict, *map(escape_markdown, stage.warnings))),
        ]
        for stage in budget.stages
    ]
    lines[0][:2] = [escape_markdown(label), str(run.seed)]
    return lines


def _curve(stage: Stage) -> tuple[str, str]:
    if stage.curve is None:
        return EN_RULE, EN_RULE
    return f"{stage.curve.noise:.4f}", f"{stage.curve.gain:+.4f}"


def _what_it_takes(short: Sequence[tuple[StoredRun, Budget]]) -> list[str]:
    """The commands that would make the short rows whole, with hours at the speed of the stored runs."""
    if not short:
        return []
    hours: dict[tuple[str, str], list[float]] = {}
    for run, budget in short:
        hours.setdefault((run.method, run.target), []).append(_hours(run, budget))
    body = [
        [escape_markdown(method), escape_markdown(target), str(len(found)), f"{max(found):,.1f}"]
        for (method, target), found in sorted(hours.items())
    ]
    headers = ("Method", "Target", "Runs", "Hours at most, each")
    return [
        "## What the short rows would take",
        "",
        "Hours of one run for the authors' most rows, at the speed of the stored run on its machine. A method that "
        "stops by validation needs a fraction of it: run it with today's defaults, which wait as long as the "
        "authors do. Adapters take the study's budget with `--set train_examples=none --set "
        "training.epochs=2`.",
        "",
        tabulate(
            body,
            headers,
            tablefmt="pipe",
            colalign=["left", "left", "right", "right"],
            disable_numparse=True,
        ),
    ]


def _hours(run: StoredRun, budget: Budget) -> float:
    seconds = run.manifest["seconds"]
    spent = float(seconds.get("total_with_adapters") or seconds.get("fit") or 0.0)
    return spent / min(1.0, budget.share or 1.0) / 3600
