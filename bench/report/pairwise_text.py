"""A comparison of methods as text, and as rows of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report.plain import CORRECTION_NAMES, count_text, difference_text, number_text, p_text
from bench.terminal import text_table

if TYPE_CHECKING:
    from bench.report.comparison import Pairwise

__all__ = ["pairwise_rows", "pairwise_text"]


def pairwise_text(found: Pairwise, wide: int | None = None) -> str:
    """The comparison for people, without a final newline.

    Args:
        found: the comparison.
        wide: characters that a line may have, see :func:`bench.terminal.text_table`.
    """
    extra = tuple(found.pairs[0].secondary)
    seeded = any(max(pair.test.seeds) > 1 for pair in found.pairs)
    contenders = [
        (
            c.label,
            ",".join(str(run.seed) for run in c.runs) if c.trainable else "-",
            f"{c.mean:.4f}",
            str(found.ranks.get(c.label, "")),
            " ".join(run.run_id[:8] for run in c.runs),
        )
        for c in found.contenders
    ]
    headers = (
        *("methods", "difference [95 % CI]", "relative", "p", "adjusted p"),
        *(("p (users)",) if seeded else ()),
        *(f"p ({name})" for name in extra),
        *("d_z", "better / same / worse", "detectable", "result"),
    )
    pairs = [
        (
            f"{pair.a} - {pair.b}",
            difference_text(pair.test),
            "-" if pair.test.relative is None else f"{100 * pair.test.relative:+.1f} %",
            p_text(pair.test.p) + ("*" if pair.test.this_checkpoint else ""),
            p_text(pair.adjusted_p),
            *((p_text(pair.test.p_users),) if seeded else ()),
            *(p_text(pair.secondary[name]) for name in extra),
            number_text(pair.test.d_z, "+.3f"),
            f"{pair.test.wins} / {pair.test.ties} / {pair.test.losses}",
            number_text(pair.test.minimum_detectable, ".4f"),
            pair.verdict,
        )
        for pair in found.pairs
    ]
    lines = [
        f"{found.target}: {found.metric.upper()} of {found.n_users:,} users, "
        f"task {found.task_hash[:12]}\n",
        text_table(("method", "seeds", "mean", "rank", "runs"), contenders, wide),
        f"\nPaired t-test over users and training seeds, two-sided; "
        f"{CORRECTION_NAMES[found.correction]} over {count_text(len(found.pairs), 'comparison')}, "
        f"alpha {found.alpha:g}",
        text_table(headers, pairs, wide),
        "\nIntervals and p are those of single comparisons; adjusted p belongs to all of them. "
        "detectable: smallest true\ndifference that this test finds with a chance of 80 %. "
        '"not separated" does not mean equal; "equivalent" means that\nthe interval lies within '
        "the bound.",
    ]
    if any(pair.test.this_checkpoint for pair in found.pairs):
        lines.append(
            "* A trained method has one seed: the test is about this checkpoint, not the method. "
            "Add seeds with --seed 0,1,2."
        )
    if seeded:
        lines.append("p (users): of these checkpoints alone, without the variance between seeds.")
    if found.ranks:
        lines.append("rank: best and worst place, given the differences that are significant.")
    return "\n".join([*lines, *found.notes])


def pairwise_rows(found: Pairwise) -> list[dict[str, Any]]:
    """One row per pair: both labels, the difference, its interval and tests, the verdict."""
    return [
        {
            "target": found.target,
            "metric": found.metric,
            "a": pair.a,
            "b": pair.b,
            "difference": pair.test.difference,
            "lo": pair.test.ci95[0],
            "hi": pair.test.ci95[1],
            "p": pair.test.p,
            "adjusted_p": pair.adjusted_p,
            "detectable": pair.test.minimum_detectable,
            "verdict": pair.verdict,
        }
        for pair in found.pairs
    ]
