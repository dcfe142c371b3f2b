"""What a reader of a table must know: protocol, users, marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.report.table import FLAGS, Block

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["caption_lines", "protocol_record"]

HASH_DIGITS = 10

_GUARD = {
    "full": "held-out pairs of all sibling domains were dropped from training",
    "partial": "some sibling domains were not on disk, so their held-out pairs were not checked",
    "off": "held-out pairs of sibling domains were left in training",
    "none": "no other domain shares users and items",
}


def protocol_record(run: StoredRun, n_candidates: NDArray[np.int32]) -> dict[str, Any]:
    """The task of a table as plain values."""
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
    }


def caption_lines(
    protocol: Mapping[str, Any],
    blocks: Sequence[Block],
    n_users: int,
    metrics: Sequence[str],
    primary: str,
    ci: bool,
    notes: Sequence[str],
) -> tuple[str, ...]:
    """The sentences under a table, in order."""
    rows = [row for block in blocks for row in block.rows]
    lines = [_protocol_line(protocol)]
    lines.append(
        f"Leak guard {protocol['guard']}: {_GUARD.get(protocol['guard'], 'see the manifest')}. "
        f"Task {protocol['task_hash'][:HASH_DIGITS]}, candidates "
        f"{protocol['candidates_hash'][:HASH_DIGITS]}."
    )
    total = protocol["n_users"]
    lines.append(
        f"n = {n_users:,} of {total:,} test users. S training seeds: each user's metric is averaged "
        "over seeds, then over users. Ties count with their expectation over random tie-breaking."
    )
    lines.append(
        "Bold: the best displayed figure of a column; italics: the next distinct one; rows that "
        f"show the same figure share the mark. Families in the paper's order, then by "
        f"{primary.upper()}. The row random is computed, not run."
    )
    if ci:
        lines.append(
            "95 % CI: percentile bootstrap over users, 2,000 resamples; overlap of two intervals is "
            "not a test."
        )
    if any("transductive" in row.flags for row in rows):
        lines.append(f"{FLAGS['transductive']} saw the unlabelled test requests while training.")
    lines += [
        f"{FLAGS['ties']} {row.label}: {100 * row.share_tied:.1f} % of its users have a tied positive; "
        f"the order of ties could move a displayed mean by {row.tie_gap:.4f}."
        for row in rows
        if "ties" in row.flags
    ]
    if len(blocks) > 1:
        lines.append(
            "Rows below the rule were scored on other users (own n); they are neither marked nor "
            "comparable with the rows above."
        )
    return (*lines, *notes)


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
