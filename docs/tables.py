"""The tables of these pages that are made from the registries: ``python docs/tables.py [--check]``.

A table stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.evaluation.metrics import METRIC_KINDS
from bench.merging import MERGERS
from bench.methods.config import config_fields
from bench.registry import BUILT_IN, KINDS, Registry, registry_of

HERE = Path(__file__).parent


def _own(registry: Registry[object]) -> list[str]:
    """The names that this package ships; what is installed beside it changes no page."""
    return [name for name in registry if registry.origin(name) == BUILT_IN]


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _option(name: str, default: object) -> str:
    if default is None:
        return f"`{name}`"
    return f"`{name}` {default if isinstance(default, str) else json.dumps(default)}"


def kinds() -> str:
    """The registries with their names."""
    rows = []
    for kind in KINDS:
        names = _own(registry_of(kind))
        listed = ", ".join(f"`{name}`" for name in names[:8])
        more = f" and {len(names) - 8} more: `bench methods`" if len(names) > 8 else ""
        rows.append((f"`weavebench.{kind}`", f"`{KINDS[kind].replace(':', '.')}`", listed + more))
    return _table(("entry-point group", "table", "names of this package"), *rows)


def mergers() -> str:
    """The mergers with their options."""
    rows = []
    for name in _own(MERGERS):
        config = MERGERS.load(name)
        summary = inspect.cleandoc(config.__doc__ or "").splitlines()[0].removesuffix(".")
        options = ", ".join(_option(f.name, f.default) for f in config_fields(config))
        rows.append((f"`{name}`", summary, options))
    return _table(("merger", "what it does", "options and defaults"), *rows)


def metrics() -> str:
    """The metrics with their values."""
    rows = []
    for name in _own(METRIC_KINDS):
        metric = METRIC_KINDS.load(name)
        cut = " if r <= k, else 0" if metric.gain else ""
        rows.append((f"`{name}{'@k' if metric.gain else ''}`", metric.summary + cut))
    return _table(("metric", "value"), *rows)


TABLES: Mapping[str, tuple[str, Callable[[], str]]] = {
    "kinds": ("plugins.md", kinds),
    "mergers": ("merging.md", mergers),
    "metrics": ("evaluation.md", metrics),
}


def filled(page: str, text: str) -> str:
    """The text of a page with its tables made anew."""
    for name, (where, make) in TABLES.items():
        if where == page:
            begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
            pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
            table = f"{begin}{make()}\n{end}"
            text, found = pattern.subn(lambda _, new=table: new, text)
            if found != 1:
                raise SystemExit(f"{page}: {found} places of the table {name!r}; expected one.")
    return text


def main() -> None:
    """Write the pages; with ``--check`` only say which differ, and fail."""
    stale = []
    for page in sorted({where for where, _ in TABLES.values()}):
        file = HERE / page
        before = file.read_text(encoding="utf-8")
        after = filled(page, before)
        if after != before:
            stale.append(page)
            if "--check" not in sys.argv:
                file.write_text(after, encoding="utf-8")
    if stale and "--check" in sys.argv:
        raise SystemExit(f"{', '.join(stale)}: not what the registries give; run `make docs`.")


if __name__ == "__main__":
    main()
