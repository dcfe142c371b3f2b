"""What a suite still lacks, as the commands that add it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.significance import Draft

if TYPE_CHECKING:
    from bench.suites import Suite

__all__ = ["missing_commands", "missing_section"]


def missing_commands(drafts: Sequence[Draft], suite: Suite, scale: str = "cpu") -> list[str]:
    """One command per method and missing seeds; empty if nothing is missing.

    A method that no table shows is taken for one that is trained, with all seeds of the scale.

    Args:
        drafts: the tables that exist.
        suite: what should be there.
        scale: one of its scales.
    """
    wanted = suite.scale(scale)
    present: dict[tuple[str, str], set[int]] = {}
    free: set[str] = set()
    for draft in drafts:
        for one in draft.measured:
            present.setdefault((draft.table.target, one.row.method), set()).update(one.row.seeds)
            if not one.trainable:
                free.add(one.row.method)
    lacking: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for method in suite.methods:
        seeds = wanted.seeds[:1] if method in free else wanted.seeds
        for target in wanted.targets:
            found = present.get((target, method), set())
            missing = tuple(seed for seed in seeds if seed not in found)
            if missing:
                lacking.setdefault((method, missing), []).append(target)
    return [
        f"bench run --method {method} --target {','.join(targets)}"
        + (f" --profile {wanted.profile}" if wanted.profile != "cpu" else "")
        + ("" if method in free else f" --seed {','.join(map(str, seeds))}")
        + " --candidate-seed 0,1,2 --also-full"
        for (method, seeds), targets in lacking.items()
    ]


def missing_section(drafts: Sequence[Draft], suite: Suite) -> str:
    """The section of the index that lists the commands; "" if none is needed or meant."""
    targets = {target for scale in suite.scales.values() for target in scale.targets}
    commands = missing_commands(drafts, suite)
    if not commands or not any(draft.table.target in targets for draft in drafts):
        return ""
    return (
        "\n## What is missing\n\n"
        f"These commands add the runs that the suite `{suite.name}` asks for and that are not here yet "
        "(while a trained row has one seed, no row of its table can earn a star):\n\n"
        "```bash\n" + "\n".join(commands) + "\n```\n"
    )
