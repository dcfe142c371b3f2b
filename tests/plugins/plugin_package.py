"""A package with one plugin of each kind, as pip would lay it out, and programs that run beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

MERGER = '''
"""A merger."""

from bench.merging import Factors, MergeConfig
from bench.merging.merged import Part


class Scaled(MergeConfig):
    """The first adapter, so many times.

    Attributes:
        by: the factor.
    """

    by: float = 2.0

    has_expert = True

    def parts(self, adapters, setting):
        """Scale one half of each pair."""
        for module in adapters[0].modules:
            a, b = adapters[0].factors[module]
            yield module, Part(Factors(a.float(), self.by * b.float()))
'''

METRIC = '''
"""A metric with a cut-off and one without."""

from bench.evaluation import Metric

RBP = Metric("rank-biased precision, p = 0.8", gain=lambda rank: 0.2 * 0.8 ** (rank - 1))
BETTER = Metric("candidates ahead", values=lambda outcomes, ties: outcomes.n_better.astype(float))
'''

READER = '''
"""A reader of lines "user likes item"."""

import polars as pl

from bench.data.raw import RawData
from bench.data.readers import Reader


class Likes(Reader):
    """Lines of a user, the word likes and an item, oldest first."""

    def read(self, files):
        """Read the lines of all files."""
        files.refuse_table_options(titles_inside=False)
        rows = [line.split(" likes ") for f in files.inter for line in f.read_text().splitlines()]
        users, items = zip(*rows)
        events = {"user": users, "item": items, "time": [float(n) for n in range(len(rows))]}
        return RawData(pl.DataFrame(events), None, tuple(files.inter))
'''

POOLING = '''
"""A pooling."""


def last_token(states, mask):
    """The state of the last token."""
    if mask is None:
        return states[:, -1]
    return states[range(len(states)), mask.sum(1) - 1]
'''

MODULES = {"merger": MERGER, "metric": METRIC, "reader": READER, "pooling": POOLING}

ENTRY_POINTS = {
    "mergers": {"scaled": "likes_plugin.merger:Scaled", "ties": "likes_plugin.merger:Scaled"},
    "metrics": {"rbp": "likes_plugin.metric:RBP", "better": "likes_plugin.metric:BETTER"},
    "readers": {"likes": "likes_plugin.reader:Likes", "broken": "likes_plugin.nowhere:Reader"},
    "poolings": {"last": "likes_plugin.pooling:last_token"},
    "reader": {"typo": "likes_plugin.reader:Likes"},
}


def write_modules(folder: Path) -> None:
    """The code of the package."""
    package = folder / "likes_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Plugins."""\n')
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text.lstrip())


def install(folder: Path) -> None:
    """What `pip install --target FOLDER` leaves of the package."""
    write_modules(folder)
    info = folder / "likes_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: likes-plugin\nVersion: 1.2\n")
    lines = []
    for kinds, points in ENTRY_POINTS.items():
        lines += [f"[weavebench.{kinds}]", *(f"{name} = {at}" for name, at in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


def beside(folder: Path, program: str, home: Path) -> Any:
    """The JSON that a program prints last, run where the package is installed.

    In the program ``bench(words, ...)`` calls the command line and returns its result.
    """
    start = """
    import json
    from typer.testing import CliRunner
    from bench.cli import app

    def bench(*words):
        return CliRunner().invoke(app, [str(word) for word in words], prog_name="bench")
    """
    code = textwrap.dedent(start) + textwrap.dedent(program)
    private = {"BENCH_CACHE": str(home / "cache"), "BENCH_STORE": str(home / "runs")}
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **private, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
