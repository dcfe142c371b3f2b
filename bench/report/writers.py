"""A table as Markdown, CSV or JSON; the same table always gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from tabulate import tabulate

from bench.report.table import FAMILIES, FLAGS, Row, Table

__all__ = ["to_csv", "to_json", "to_markdown"]

_EMPTY = "–"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def to_markdown(table: Table) -> str:
    """The table as Markdown without HTML, with its caption; ends with a newline."""
    with_profile = len({row.profile for row in table.rows if row.profile}) > 1
    headers = ["Family", "Method", *(["Profile"] if with_profile else []), "S", "n"]
    headers += [metric.upper() for metric in table.metrics]
    if table.with_intervals:
        headers.append(f"{table.primary.upper()} 95 % CI")
    n_text = 3 if with_profile else 2
    align = ["left"] * n_text + ["right"] * (len(headers) - n_text)
    parts = [f"### {_escape(table.target)}", ""]
    for block in table.blocks:
        if block.title:
            parts += ["---", "", f"{_escape(block.title)}:", ""]
        body, family = [], None
        for row in block.rows:
            title = FAMILIES.get(row.family, row.family)
            body.append(_cells(table, row, "" if row.family == family else title, with_profile))
            family = row.family
        parts += [
            tabulate(body, headers, tablefmt="pipe", colalign=align, disable_numparse=True),
            "",
        ]
    parts += [f"- {_escape(line)}" for line in table.caption]
    parts += [f"- Made by `{table.command}`; do not edit."]
    return "\n".join(parts) + "\n"


def _cells(table: Table, row: Row, family: str, with_profile: bool) -> list[str]:
    signs = "".join(sign for flag, sign in FLAGS.items() if flag in row.flags)
    name = _escape(row.label) + (f" {signs}" if signs else "")
    cells = [_escape(family), name]
    if with_profile:
        cells.append(_escape(row.profile) or _EMPTY)
    cells += [str(len(row.seeds)) if row.seeds else _EMPTY, f"{row.n_users:,}"]
    for metric in table.metrics:
        shown = row.figures[metric].shown
        mark = {"best": "**", "second": "_"}.get(row.marks.get(metric, ""), "")
        cells.append(f"{mark}{shown}{mark}")
    if table.with_intervals:
        interval = row.figures[table.primary].ci95
        shown = f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval and row.seeds else _EMPTY
        cells.append(shown)
    return cells


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return _SPECIAL.sub(r"\\\1", text.replace("\n", " "))


def to_csv(table: Table) -> str:
    """One line per row with full precision, RFC 4180 quoting and LF line ends.

    The columns ``task_hash`` and ``candidates_hash`` are in every line, so that lines of several
    tables can be joined without losing what may be compared.
    """
    header = [
        *("target", "task_hash", "candidates_hash", "block", "family", "method", "label"),
        *("profile", "seeds", "n_users"),
    ]
    for metric in table.metrics:
        header.append(metric)
        if table.with_intervals:
            header += [f"{metric}_low", f"{metric}_high"]
    header += ["seconds_fit", "flags", "run_ids"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for block in table.blocks:
        for row in block.rows:
            cells: list[Any] = [
                *(table.target, table.task_hash, table.candidates_hash),
                "main" if block.comparable else "other-users",
                *(row.family, row.method, row.label, row.profile),
                *(" ".join(map(str, row.seeds)), row.n_users),
            ]
            for metric in table.metrics:
                figure = row.figures[metric]
                cells.append(repr(figure.mean))
                if table.with_intervals:
                    cells += [repr(end) for end in figure.ci95 or ()]
            seconds = "" if row.seconds_fit is None else repr(row.seconds_fit)
            writer.writerow([*cells, seconds, " ".join(row.flags), " ".join(row.run_ids)])
    return stream.getvalue()


def to_json(table: Table) -> str:
    """The whole table with full precision: sorted keys, two blanks of indent, a final newline."""
    value = {
        "target": table.target,
        "protocol": dict(table.protocol),
        "primary": table.primary,
        "metrics": list(table.metrics),
        "caption": list(table.caption),
        "command": table.command,
        "blocks": [
            {
                "title": block.title,
                "comparable": block.comparable,
                "rows": [_json_row(table, row) for row in block.rows],
            }
            for block in table.blocks
        ],
    }
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_row(table: Table, row: Row) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {}
    for metric in table.metrics:
        figure = row.figures[metric]
        figures[metric] = {"mean": figure.mean, "mark": row.marks.get(metric)}
        if figure.ci95 is not None:
            figures[metric]["ci95"] = list(figure.ci95)
    return {
        "method": row.method,
        "label": row.label,
        "family": row.family,
        "profile": row.profile,
        "seeds": list(row.seeds),
        "n_users": row.n_users,
        "metrics": figures,
        "run_ids": list(row.run_ids),
        "config": dict(row.config),
        "sources": list(row.sources),
        "flags": list(row.flags),
        "share_tied": row.share_tied,
        "tie_gap": row.tie_gap,
        "seconds_fit": row.seconds_fit,
    }
