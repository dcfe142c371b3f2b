"""A reading of leaderboards, generated with the tests behind every sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from bench.evaluation.corrections import adjust
from bench.evaluation.seeds import SeedComparison, compare_seeds
from bench.report.plain import CORRECTION_NAMES, count_text, p_figure
from bench.report.rows import RANDOM, Measured
from bench.report.significance import ALPHA, CORRECTION, Draft
from bench.report.table import FLAGS, Row, Table
from bench.report.writers import escape_markdown
from bench.runs.budgets import WHY_SHORT
from bench.runs.stored import slug

__all__ = ["Pair", "index_page", "subset_reading", "subset_stem", "training_free_pairs"]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A training-free row against a trained one on the same target.

    Attributes:
        target: target domain.
        free: the training-free row.
        trained: the trained row.
        test: ``free`` minus ``trained`` on the primary metric.
        adjusted_p: p (of the users alone if a seed is missing), Holm over all pairs.
    """

    target: str
    free: Measured
    trained: Measured
    test: SeedComparison
    adjusted_p: float


def training_free_pairs(drafts: Sequence[Draft]) -> list[Pair]:
    """Every training-free row against every trained row that stands for its method, in the tables' order."""
    found = []
    for draft in drafts:
        order = {row.key: place for place, row in enumerate(draft.table.rows)}
        rows = sorted(draft.measured, key=lambda one: order[one.row.key])
        free = [one for one in rows if not one.trainable and one.row.method != RANDOM]
        for one in free:
            for other in rows:
                if other.trainable and not _is_short(other):
                    test = compare_seeds(one.values, other.values, trainable_a=False)
                    found.append((draft.table.target, one, other, test))
    adjusted = adjust([test.p for *_, test in found], CORRECTION).tolist() if found else []
    return [Pair(*pair, p) for pair, p in zip(found, adjusted, strict=True)]


def index_page(drafts: Sequence[Draft], command: str) -> str:
    """The page that stands above the tables of all targets, as Markdown."""
    pairs = training_free_pairs(drafts)
    lines = ["# Leaderboards", ""]
    lines += [f"Made by `{command}` from `results/`; do not edit.", ""]
    lines += [_overview(drafts), ""]
    lines += [
        "Every table is made of stored runs over the same users and candidates. What the marks mean "
        "stands under each table and in [the documentation](../docs/leaderboards.md).",
        "",
        "## Where a training-free row is above a trained one",
        "",
    ]
    lines += _reading(pairs)
    lines += _skipped(drafts)
    return "\n".join(lines) + "\n"


def _is_short(one: Measured) -> bool:
    """Whether a row was trained too little to stand for its method."""
    return "budget" in one.row.flags


def _best(draft: Draft) -> Row:
    """The unmarked row with the highest mean; the row of a random order has no mark."""
    primary = draft.table.primary
    unmarked = (one.row for one in draft.measured if not _is_short(one))
    return max(unmarked, key=lambda row: (row.figures[primary].mean, row.label))


def _skipped(drafts: Sequence[Draft]) -> list[str]:
    """What the reading leaves out, and which of it is above the best unmarked row all the same."""
    skipped = [one for draft in drafts for one in draft.measured if _is_short(one)]
    if not skipped:
        return []
    above = [
        f"{one.row.name} on {draft.table.target} ({one.row.figures[draft.table.primary].shown})"
        for draft in drafts
        for one in draft.measured
        if _is_short(one)
        and one.row.figures[draft.table.primary].mean
        > _best(draft).figures[draft.table.primary].mean
    ]
    one_row = len(skipped) == 1
    lines = [
        "",
        f"{count_text(len(skipped), 'trained row')} {'stays' if one_row else 'stay'} out of this reading and of "
        f"the best rows (mark {FLAGS['budget']}): {WHY_SHORT}. [Training budgets](../docs/budgets.md) has the "
        "evidence and what it would take.",
    ]
    if above:
        lines[-1] += (
            f" Above the best unmarked row all the same: {escape_markdown(', '.join(above))}."
        )
    return lines


def subset_stem(table: Table) -> str:
    """Name of the files of a table over a subset of users, without suffix."""
    return f"{slug(table.target)}-{table.rows[0].n_users}-users"


def subset_reading(drafts: Sequence[Draft]) -> str:
    """Which tables stand over a subset of users, as Markdown; nothing without one."""
    if not drafts:
        return ""
    lines = [
        "",
        "## On subsets of users",
        "",
        "Methods that take about a second per user are scored on a nested, hash-chosen subset. These tables cut "
        "every row to exactly those users.",
        "",
        _overview(drafts, subset_stem),
    ]
    return "\n".join(lines) + "\n"


def _target_stem(table: Table) -> str:
    return slug(table.target)


def _overview(drafts: Sequence[Draft], stem: Callable[[Table], str] = _target_stem) -> str:
    body = []
    for draft in drafts:
        table = draft.table
        best = _best(draft)
        seeds = sorted({len(one.row.seeds) for one in draft.measured if one.trainable})
        target = escape_markdown(table.target)
        star = "\\*" if "star" in _row_signs(draft, best.key) else ""
        body.append(
            [
                f"[{target}]({stem(table)}.md)",
                f"{best.n_users:,}",
                str(len(draft.measured)),
                " to ".join(str(s) for s in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else "–",
                escape_markdown(best.label),
                f"{best.figures[table.primary].shown}{star} {table.primary.upper()}",
                f"[LaTeX]({stem(table)}.tex), [CSV]({stem(table)}.csv), [JSON]({stem(table)}.json)",
            ]
        )
    headers = ["Target", "Users", "Rows", "Seeds of trained rows", "Best unmarked row", "Figure"]
    headers += ["Files"]
    align = ["left", "right", "right", "right", "left", "right", "left"]
    return tabulate(body, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _row_signs(draft: Draft, key: tuple[str, str]) -> tuple[str, ...]:
    return next((row.signs for row in draft.table.rows if row.key == key), ())


def _reading(pairs: Sequence[Pair]) -> list[str]:
    if not pairs:
        return ["No target has both training-free rows and trained rows without a mark."]
    above = [pair for pair in pairs if pair.test.difference > 0]
    clear = [pair for pair in above if pair.adjusted_p < ALPHA and pair.test.same_sign]
    n_methods = sum(not pair.test.this_checkpoint for pair in clear)
    n_checkpoints = len(clear) - n_methods
    lines = [
        f"A training-free row is above a trained one in {len(above)} of {len(pairs)} pairs on one target. The "
        f"difference is significant between methods in {n_methods} pairs. In {n_checkpoints} more it is "
        "significant for the stored checkpoint alone, because the trained row has one seed.",
        "",
        "A difference is significant if a two-sided paired t-test over users, with the variance between "
        f"training seeds if there are several, gives p below {ALPHA} after {CORRECTION_NAMES[CORRECTION]} over all "
        f"{len(pairs)} pairs, and if all seeds have the same sign. With S = 1 another seed of the trained method "
        "could read differently.",
        "",
    ]
    if above:
        body = [
            [
                escape_markdown(pair.target),
                escape_markdown(pair.free.row.name),
                escape_markdown(pair.trained.row.name),
                str(len(pair.trained.row.seeds)),
                f"{pair.test.difference:+.4f}",
                f"[{pair.test.ci95[0]:+.4f}, {pair.test.ci95[1]:+.4f}]",
                escape_markdown(p_figure(pair.adjusted_p)),
                f"{pair.test.minimum_detectable:.4f}",
            ]
            for pair in above
        ]
        headers = ["Target", "Training-free", "Trained", "S", "Difference", "95 % CI"]
        headers += ["Adjusted p", "Detectable"]
        align = ["left"] * 3 + ["right"] * 5
        lines += [
            tabulate(body, headers, tablefmt="pipe", colalign=align, disable_numparse=True),
            "",
            "Difference: on the primary metric of the target's table. Detectable: the smallest true "
            "difference that the test finds with 80 % power.",
            "",
        ]
    never = sorted(
        {pair.trained.row.name for pair in pairs} - {pair.trained.row.name for pair in above}
    )
    if never:
        shown = ", ".join(escape_markdown(label) for label in never)
        lines += [f"No training-free row is above {shown} on any of these targets.", ""]
    return lines[:-1] if lines[-1] == "" else lines
