"""Names of rows and runs: what tells them apart in one table or comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.select import Series
from bench.report.table import full_name

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["row_labels", "row_names", "run_labels"]


def row_labels(series: Sequence[Series]) -> dict[Series, str]:
    """Labels of the rows of a table: the method, and whatever tells two rows of one method apart.

    What the runs note of themselves stands first (a substitute for what the source used). Rows of
    other profiles may share a label: the table has a column for the profile.
    """
    labels = {}
    for one in series:
        run = one.first
        same = [
            other.first
            for other in series
            if other.first.method == run.method and other.first.profile == run.profile
        ]
        scorer = run.config.get("scorer")
        note = run.manifest["method"].get("row_note")
        extra = ["imported"] if run.imported is not None else []
        extra += [str(part) for part in (note, scorer) if part]
        extra += [f"{key}={value}" for key, value in one.overrides if key != "scorer"]
        if run.sources and len({other.sources for other in same}) > 1:
            extra.append("sources " + "+".join(run.sources))
        for key in ("dtype", "init_seed"):
            if len({str(other.manifest.get(key)) for other in same}) > 1:
                extra.append(f"{key} {run.manifest.get(key)}")
        plugin = run.manifest["method"].get("plugin_sha256")
        if plugin and any(not r.manifest["method"].get("plugin_sha256") for r in same):
            extra.append(f"plugin {plugin[:8]}")
        labels[one] = f"{run.method} ({', '.join(extra)})" if extra else run.method
    # The same settings with another resolved configuration: the defaults changed in between.
    counts = Counter((label, one.first.profile) for one, label in labels.items())
    return {
        one: f"{label} [{one.first.run_id[:8]}]" if counts[label, one.first.profile] > 1 else label
        for one, label in labels.items()
    }


def row_names(series: Sequence[Series]) -> list[str]:
    """The rows' names if no column holds the profile, in the order of ``series``."""
    labels = row_labels(series)
    return [full_name(labels[one], one.first.profile) for one in series]


def run_labels(runs: Sequence[StoredRun]) -> list[str]:
    """A name per run that tells it apart from all others, whatever they differ in."""

    def parts(run: StoredRun) -> list[tuple[str, str]]:
        config = [(key, str(value)) for key, value in sorted(run.config.items())]
        return [
            ("", run.profile),
            ("sources ", "+".join(run.sources) or "none"),
            *((f"{key}=", value) for key, value in config),
            ("version ", str(run.manifest["method"]["version"])),
            ("dtype ", str(run.manifest.get("dtype"))),
            ("seed ", str(run.seed)),
        ]

    labels = []
    for run in runs:
        same = [other for other in runs if other.method == run.method]
        extra = ["imported"] if run.imported is not None else []
        extra += [
            f"{name}{value}"
            for name, value in parts(run)
            if any(dict(parts(other)).get(name) != value for other in same)
        ]
        labels.append(f"{run.method} ({', '.join(extra)})" if extra else run.method)
    # Seeds of several configurations are joined into one: the seed is no part of the name then.
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    return [
        f"{label} [{run.run_id[:8]}]" if label in repeated else label
        for label, run in zip(labels, runs, strict=True)
    ]
