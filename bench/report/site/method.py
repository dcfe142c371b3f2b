"""The page of one method: every figure in full, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.columns import rank_text
from bench.report.costs import COSTS
from bench.report.markup import Child, Element, data_block, el
from bench.report.site.parts import (
    NONE,
    Scale,
    Site,
    family_class,
    family_name,
    frame,
    interval_bar,
    short_time,
)
from bench.report.table import FLAGS, Row
from bench.runs.budgets import WHY_SHORT

if TYPE_CHECKING:
    from bench.report.site.write import Board
    from bench.runs.stored import StoredRun

__all__ = ["method_page"]

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "curves.js")
CURVE_METRIC = "ndcg@5"
_FLAG_TEXT = {
    "transductive": "saw the unlabelled test requests while training",
    "ties": "the order of tied scores could move a displayed mean by more than 0.001",
    "unchecked": "code from outside the package that had not passed the conformance kit when it ran",
    "budget": f"{WHY_SHORT}; it says little about its method",
    "invalid": "less than 95 % of its generated answers name a candidate; the others are misses",
}


def method_page(site: Site, boards: Sequence[Board], method: str) -> Element:
    """The page of ``method``."""
    found = [
        (board, row)
        for board in boards
        for row in board.table.rows
        if row.method == method and row.run_ids
    ]
    families = list(dict.fromkeys(row.family for _, row in found))
    kinds: list[Child] = []
    for family in families:
        kinds += [el("span", class_=f"dot {family_class(family)}"), family_name(family)]
    versions = sorted(
        {
            str(site.runs[i].manifest["method"]["version"])
            for _, row in found
            for i in row.run_ids
            if i in site.runs
        }
    )
    header = el(
        "header",
        el("p", el("a", f"← {site.title}", href="../index.html"), class_="back"),
        el("h1", method),
        el("p", *kinds, f" · version {', '.join(versions)}" if versions else None, class_="lead"),
        class_="top",
    )
    sections = [_section(site, board, row) for board, row in found]
    main = el("main", *sections, id="main")
    title = f"{method} – {site.title}"
    return frame(site, title, [header, main], root="../", scripts=SCRIPTS)


def _section(site: Site, board: Board, row: Row) -> Element:
    table = board.table
    anchor = site.targets[table.target]
    profile = f"profile {row.profile}" if row.profile else None
    extra = [part for part in (row.label if row.label != row.method else None, profile) if part]
    runs = [site.runs[run_id] for run_id in row.run_ids if run_id in site.runs]
    flags = [
        el("p", f"{FLAGS[flag]} {_FLAG_TEXT.get(flag, flag)}.", class_="facts")
        for flag in row.flags
        if flag in FLAGS
    ]
    return el(
        "section",
        el("h2", el("a", table.target, href=f"../index.html#{anchor}")),
        el(
            "p",
            " · ".join(
                [
                    *extra,
                    f"n = {row.n_users:,} users",
                    f"{'seed' if len(row.seeds) == 1 else 'seeds'} "
                    + ", ".join(map(str, row.seeds)),
                    *(
                        [f"rank {rank_text(row.rank)} in {table.primary.upper()}"]
                        if row.rank
                        else []
                    ),
                    *([f"sources {', '.join(row.sources)}"] if row.sources else []),
                ]
            ),
            class_="facts",
        ),
        *flags,
        _metrics(board, row),
        _curves(runs),
        el("h3", "Runs"),
        _runs(runs, table.primary),
        el("h3", "Configuration"),
        _definitions({key: _value(value) for key, value in sorted(row.config.items())})
        if row.config
        else el("p", "This method has no options.", class_="facts"),
        el("h3", "Origin"),
        _definitions(_origin(runs)),
        class_="target",
        aria_label=table.target,
    )


def _metrics(board: Board, row: Row) -> Element:
    lines = []
    for metric in board.table.metrics:
        figure = row.figures.get(metric)
        if figure is None:
            continue
        low, high = figure.ci95 or (figure.mean, figure.mean)
        scale = Scale.of(board.table.rows, metric)
        lines.append(
            el(
                "tr",
                el("th", metric.upper(), scope="row", class_="name"),
                el("td", repr(figure.mean), class_="number"),
                el("td", f"{low:.6f}", class_="number"),
                el("td", f"{high:.6f}", class_="number"),
                el("td", interval_bar(figure, scale, row.family, None), class_="interval"),
            )
        )
    heads = [
        el("th", "Metric", scope="col", class_="name"),
        el("th", "Mean", scope="col", class_="number"),
        el("th", "95 % CI from", scope="col", class_="number"),
        el("th", "to", scope="col", class_="number"),
        el("th", "From the lowest row to the highest", scope="col", class_="interval"),
    ]
    return el(
        "div",
        el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="plain metrics"),
        class_="scroll",
    )


def _curves(runs: Sequence[StoredRun]) -> Element | None:
    """Validation figure by epoch, if the runs recorded a training."""
    lines = [point for run in runs for point in _curve(run)]
    if len(lines) < 2:
        return None
    return el(
        "figure",
        el("h3", "Training"),
        el("div", class_="canvas"),
        el(
            "figcaption",
            f"{CURVE_METRIC.upper()} on the validation users after each epoch, one line per seed; the "
            "filled point is the epoch whose model was scored.",
            class_="plot-note",
        ),
        data_block("curve-data", {"label": CURVE_METRIC.upper(), "points": lines}),
        class_="curve",
        hidden=True,
    )


def _curve(run: StoredRun) -> list[dict[str, Any]]:
    training = run.manifest.get("training")
    history = training.get("history") if isinstance(training, Mapping) else None
    if not isinstance(training, Mapping) or not isinstance(history, list):
        return []
    found = []
    for entry in history:
        value = entry.get(CURVE_METRIC) if isinstance(entry, Mapping) else None
        if isinstance(value, int | float) and isinstance(entry.get("epoch"), int):
            best = entry["epoch"] == training.get("best_epoch")
            found.append(
                {"seed": run.seed, "epoch": entry["epoch"], "value": float(value), "best": best}
            )
    return found


_RUN_HEADS = (
    *("Users", "Training", "CPU time", "Scoring", "Peak memory"),
    *("Device", "Finished", "Revision"),
)


def _runs(runs: Sequence[StoredRun], primary: str) -> Element:
    lines = [
        el(
            "tr",
            el("th", el("code", run.run_id), scope="row", class_="name"),
            *(el("td", text, class_="number") for text in _run_cells(run, primary)),
        )
        for run in runs
    ]
    heads = [
        el("th", text, scope="col", class_="number" if number else "name")
        for number, text in enumerate(("Run", "Seed", primary.upper(), *_RUN_HEADS))
    ]
    return el(
        "div",
        el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="plain"),
        class_="scroll",
    )


def _run_cells(run: StoredRun, primary: str) -> list[str]:
    manifest = run.manifest
    figure = run.metrics["metrics"].get(primary)
    memory = COSTS["memory"].read(manifest)
    hardware = manifest.get("hardware")
    device = str(manifest.get("device") or NONE)
    if isinstance(hardware, Mapping) and hardware.get("cpus"):
        device = f"{device}, {manifest.get('threads', NONE)} of {hardware['cpus']} cores"
    return [
        str(run.seed),
        NONE if figure is None else f"{figure['mean']:.4f}",
        f"{run.n_users:,}",
        short_time(COSTS["fit"].read(manifest)),
        short_time(COSTS["cpu"].read(manifest)),
        short_time(manifest["seconds"].get("score")),
        NONE if memory is None else f"{memory:,.0f} MB",
        device,
        str(manifest.get("finished") or NONE)[:10],
        str(manifest.get("git_revision") or NONE)[:10],
    ]


def _origin(runs: Sequence[StoredRun]) -> dict[str, str]:
    """Hashes and versions; several values if the runs differ."""
    found: dict[str, dict[str, None]] = {}

    def add(name: str, value: object) -> None:
        if value:
            found.setdefault(name, {})[str(value)] = None

    for run in runs:
        if run.imported is not None:
            for key, value in run.imported.items():
                add(f"imported, as declared: {key.replace('_', ' ')}", value)
        add("task", run.task_hash)
        add("candidates", run.candidates_hash)
        add("users", run.users_hash)
        add("per-user outcomes (SHA-256)", run.manifest["files"].get("per_user.parquet"))
        add("plugin source (SHA-256)", run.manifest["method"].get("plugin_sha256"))
        packages = run.manifest.get("packages")
        if isinstance(packages, Mapping):
            add("packages", ", ".join(f"{name} {packages[name]}" for name in sorted(packages)))
        hardware = run.manifest.get("hardware")
        if isinstance(hardware, Mapping):
            add("processor", hardware.get("cpu"))
    return {name: "; ".join(values) for name, values in found.items()}


def _definitions(values: Mapping[str, str]) -> Element:
    parts = [el("div", el("dt", name), el("dd", text)) for name, text in values.items()]
    return el("dl", *parts)


def _value(value: Any) -> str:
    """A configuration value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
