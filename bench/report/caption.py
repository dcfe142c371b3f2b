"""What a reader of a table must know: protocol, users, marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.report.columns import EM_RULE
from bench.report.options import TableOptions
from bench.report.plain import CORRECTION_NAMES, p_figure, share_text
from bench.report.table import FLAGS, SIGNS, Block, Row, Significance, Table
from bench.runs.budgets import WHY_SHORT

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "caption_lines",
    "data_notes",
    "items_without_title",
    "left_out_note",
    "protocol_record",
    "significance_lines",
    "user_overlap",
]

HASH_DIGITS = 10
_FEW_WITHOUT_TITLE = 0.1

_GUARD = {
    "full": "held-out pairs of all sibling domains were dropped from training",
    "partial": "some sibling domains were not on disk, so their held-out pairs were not checked",
    "off": "held-out pairs of sibling domains were left in training",
    "none": "the target is in no id space (namespace) with others, so nothing was dropped",
}


def protocol_record(
    run: StoredRun, n_candidates: NDArray[np.int32], shown: Sequence[StoredRun] = ()
) -> dict[str, Any]:
    """The task of a table as plain values.

    Args:
        run: any run of the task.
        n_candidates: candidates that compete, per user.
        shown: the runs behind the rows, whose sources are described.
    """
    task = run.manifest["task"]
    low, high = int(n_candidates.min()), int(n_candidates.max())
    return {
        "options": dict(task.get("options", {})),
        "guard": task["guard"],
        "n_users": int(task["n_users"]),
        "n_items": int(task["n_items"]) if "n_items" in task else None,
        "n_candidates": low if low == high else [low, high],
        "task_hash": run.task_hash,
        "candidates_hash": run.candidates_hash,
        "user_overlap": user_overlap(shown),
        "without_title": items_without_title(shown),
        "training": _training(shown),
        **({"left_out": dict(task["left_out"])} if task.get("left_out") else {}),
    }


def _training(runs: Sequence[StoredRun]) -> dict[str, list[str]]:
    """Methods by profile and, if a method has the choice, by the rows that it trained on."""
    found: dict[str, set[str]] = {}
    for run in runs:
        rows = run.config.get("rows")
        label = run.profile + (f", rows={rows}" if rows else "")
        found.setdefault(label, set()).add(run.method)
    return {label: sorted(found[label]) for label in sorted(found)}


def user_overlap(runs: Sequence[StoredRun]) -> dict[str, int | None]:
    """Users that each source shares with the target; None if a manifest does not say."""
    found: dict[str, int | None] = {}
    for run in runs:
        for source in run.sources:
            value = (run.manifest.get("data") or {}).get(source, {}).get("users_shared_with_target")
            if value is not None or source not in found:
                found[source] = value
    return dict(sorted(found.items()))


def items_without_title(runs: Sequence[StoredRun]) -> dict[str, list[int]]:
    """Items without a title, and all, of domains that lack many and whose titles a row reads."""
    found: dict[str, list[int]] = {}
    for run in runs:
        for name in (run.target, *run.sources) if run.manifest["method"].get("needs_text") else ():
            data = (run.manifest.get("data") or {}).get(name, {})
            lacking, items = data.get("items_without_title", 0), data.get("items", 0)
            if lacking > _FEW_WITHOUT_TITLE * items:
                found[name] = [lacking, items]
    return dict(sorted(found.items()))


def left_out_note(left_out: Mapping[str, Any] | None) -> list[str]:
    """The sentence on users that have too few negatives; nothing if there are none."""
    if not left_out:
        return []
    n, needed, fewest = left_out["n_users"], left_out["needed"], left_out["fewest"]
    who, have, are = ("user", "has", "is") if n == 1 else ("users", "have", "are")
    what = "no item" if needed == 1 else f"fewer than {needed:,} items"
    least = "" if needed == 1 else f" (the fewest: {fewest:,})"
    return [
        f"{n:,} further {who} {have} {what} left to rank the held-out one among{least} and {are} left out "
        "for every method."
    ]


def data_notes(
    guard: str, overlap: Mapping[str, int | None], without_title: Mapping[str, Sequence[int]]
) -> list[str]:
    """What a reader must know of the data behind some rows; nothing if all is as usual."""
    shared = [name for name, users in overlap.items() if users]
    notes = [
        f"{', '.join(shared)}: the raw user ids of the target occur there, and the domains are in no common "
        "id space. If they are the same people, training there may show what they are tested on: give "
        "these domains one namespace."
    ] * bool(shared and guard == "none")
    return notes + [
        f"Titles: {lacking:,} of {items:,} items of {name} have none; what reads titles reads placeholders there."
        for name, (lacking, items) in without_title.items()
    ]


def caption_lines(
    protocol: Mapping[str, Any],
    blocks: Sequence[Block],
    n_users: int,
    primary: str,
    options: TableOptions,
    notes: Sequence[str],
) -> tuple[str, ...]:
    """The sentences under a table, in order."""
    rows = [row for block in blocks for row in block.rows]
    lines = [_protocol_line(protocol)]
    guard = protocol["guard"]
    lines.append(f"Leak guard {guard}: {_GUARD.get(guard, 'see the manifest')}.")
    lines.append(
        f"Task {protocol['task_hash'][:HASH_DIGITS]}, candidates "
        f"{protocol['candidates_hash'][:HASH_DIGITS]}."
    )
    if protocol["training"]:
        each = (f"{label}: {', '.join(names)}" for label, names in protocol["training"].items())
        lines.append(f"Profiles and training rows: {'; '.join(each)}.")
    lines.append(_overlap_line(protocol["user_overlap"]))
    lines += data_notes(guard, protocol["user_overlap"], protocol["without_title"])
    total = protocol["n_users"]
    lines.append(f"n = {n_users:,} of {total:,} test users.")
    lines += left_out_note(protocol.get("left_out"))
    lines.append(
        "S is the number of training seeds: each user's metric is averaged over seeds, then over users. Ties "
        "count with their expectation over random tie-breaking."
    )
    lines.append(
        "Bold: the best displayed figure of a column. Underlined (italics in Markdown): the next distinct "
        "one. Rows that show the same figure share the mark. Rows stand by family in the paper's order, then "
        f"by {primary.upper()}. The row random is computed, not run."
    )
    if options.ci:
        lines.append(
            "95 % CI: percentile bootstrap over users, 2,000 resamples. Overlap of two intervals is no test."
        )
    if any("transductive" in row.flags for row in rows):
        lines.append(f"{FLAGS['transductive']} saw the unlabelled test requests while training.")
    lines += [
        f"{FLAGS['transductive']} {row.label} adapted on the requests of {row.n_adapted_on:,} of these users; "
        f"over the others its {primary.upper()} is {row.unseen:.4f}."
        for row in rows
        if row.unseen is not None
    ]
    lines += [
        f"{FLAGS['ties']} {row.label}: {100 * row.share_tied:.1f} % of its users have a tied positive; "
        f"the order of ties could move its {row.tie_metric.upper()} by {row.tie_gap:.4f}."
        for row in rows
        if "ties" in row.flags
    ]
    lines += [
        f"{FLAGS['invalid']} {row.label}: only {100 * (row.share_valid or 0.0):.1f} % of its generated "
        "answers name a candidate; the others are misses, so its figures show how often the format of the "
        "answer failed more than how well it ranks."
        for row in rows
        if "invalid" in row.flags
    ]
    imported = [row.label for row in rows if "imported" in row.flags]
    if imported:
        lines.append(
            f"Imported: {', '.join(imported)}. Scores of another program, ranked here; what it was trained "
            "on, its seeds and its costs are as declared."
        )
    unchecked = [row.label for row in rows if "unchecked" in row.flags]
    if unchecked:
        lines.append(
            f"{FLAGS['unchecked']} {', '.join(unchecked)}: code from outside the package that had not passed "
            "the conformance kit (bench check) when it ran. Nothing vouches for its figures."
        )
    short = [row for row in rows if row.budget_share is not None]
    if short:
        named = ", ".join(f"{row.label} {share_text(row.budget_share)}" for row in short)
        lines.append(
            f"{FLAGS['budget']} {WHY_SHORT}. Share of the most rows that the authors train on: {named}. Such a "
            "row says little about its method."
        )
    if options.costs:
        lines.append(
            "Own s: wall seconds of training and scoring, the mean over runs. Total s: with shared "
            "adapters and earlier attempts. Peak MB: the largest of the runs. Seconds depend on the "
            "machine and on what else it was doing."
        )
    lines += _missing_lines(rows)
    if any(block.kind == "other-users" for block in blocks):
        lines.append(
            'Rows under "Other users" were scored on other users (own n); they are neither marked nor '
            "comparable with the rows above."
        )
    lines += _reported_lines(blocks)
    return (*lines, *notes)


def _missing_lines(rows: Sequence[Row]) -> list[str]:
    absent = [row.label for row in rows if not row.figures and not row.provenance]
    return [f"{EM_RULE} no stored run: {', '.join(absent)}."] if absent else []


def _reported_lines(blocks: Sequence[Block]) -> list[str]:
    rows = [row for block in blocks if block.kind == "reported" for row in block.rows]
    if not rows:
        return []
    lines = [
        "Rows as reported are quoted, not computed here. They have other candidates, users and evaluator, "
        f"so they are neither marked nor tested. Source: {rows[0].provenance}"
    ]
    n_bad = sum("inconsistent" in row.flags for row in rows)
    if n_bad:
        lines.append(
            f"{FLAGS['inconsistent']} {n_bad} of {len(rows)} quoted rows: no ranking with one relevant "
            "item per user can have these figures together (see bench lint)."
        )
    return lines


def significance_lines(table: Table) -> list[str]:
    """What the signs of a table mean, and why there are none."""
    found = table.significance
    if found is None:
        return []
    primary = table.primary.upper()
    adjusted = CORRECTION_NAMES[found.correction]
    lines = [
        f"{SIGNS['star']} in {primary}: the row is above every other row of the main block. The test is a "
        "two-sided paired t-test over users whose standard error adds the variance between training seeds "
        f"(Satterthwaite). The largest p over the rivals, adjusted by {adjusted} over the {found.family} "
        f"target{'s' * (found.family != 1)} printed together, is below {found.alpha}, and the difference "
        "has the same sign for all pairs of seeds."
    ]
    if table.with_ranks:
        lines.append(
            f"Rank: best and worst place of a row, given which differences in {primary} are significant "
            f"({adjusted} over all pairs of this table). Pairs with one training seed stay open."
        )
    if found.leader is not None and found.rival is not None:
        lines.append(_leader_line(found, primary))
    if found.reference is not None:
        lines.append(
            f"{SIGNS['above']} in {primary}: the row is above the reference {found.reference} by the same test, "
            f"adjusted by {adjusted} over {found.reference_family} comparisons with it."
        )
    return lines


def _leader_line(found: Significance, primary: str) -> str:
    leader, rival = found.leader, found.rival
    assert leader is not None and rival is not None  # noqa: S101 - narrowed by the caller
    verdict = "Starred" if found.starred else f"No star: {found.reason}"
    # Of one seed each, only the checkpoints can be compared.
    p = found.p_users if found.p is None else found.p
    scope = ", this checkpoint only" if found.p is None else ""
    tested = "" if p is None else f", p {_p_relation(p)}{scope}"
    if found.adjusted_p is not None:
        tested += f", adjusted p {_p_relation(found.adjusted_p)}"
    detectable = (
        ""
        if found.minimum_detectable is None
        else f"; smallest difference this test finds with 80 % power {found.minimum_detectable:.4f}"
    )
    return (
        f"{verdict}. {leader[0]} leads; its hardest rival is {rival[0]} (difference "
        f"{found.difference or 0.0:+.4f} {primary}{tested}{detectable})."
    )


def _p_relation(p: float) -> str:
    """A p-value within a sentence, with its sign of relation: ``= 0.012``, ``< 1e-4``."""
    figure = p_figure(p)
    return figure if figure.startswith("<") else f"= {figure}"


def _overlap_line(overlap: Mapping[str, int | None]) -> str:
    if not overlap:
        return "User overlap: no row uses source domains."
    parts = [
        f"{source} {'not recorded' if shared is None else format(shared, ',')}"
        for source, shared in overlap.items()
    ]
    return (
        "User overlap: users are not matched across domains. Raw user ids that a source shares with "
        f"the target: {', '.join(parts)}."
    )


def _protocol_line(protocol: Mapping[str, Any]) -> str:
    options = protocol["options"]
    negatives = options.get("negatives", "uniform")
    count = protocol["n_candidates"]
    spread = f"{count:,}" if isinstance(count, int) else f"{count[0]:,} to {count[1]:,}"
    train = "training and validation" if options.get("train_on") == "train+valid" else "training"
    if negatives == "full":
        ranking = f"the whole catalogue without known items ({spread} candidates per user)"
    elif negatives == "imported":
        ranking = f"{spread} imported candidates per user"
    else:
        ranking = (
            f"{spread} candidates per user: the held-out item and {negatives} negatives, "
            f"candidate seed {options.get('candidate_seed', 0)}"
        )
    return f"Leave-one-out, {ranking}; trained on {train} events."
