"""The package of docs/plugins.md, as pip would lay it out, and programs that run beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"

# What goes wrong: a name that is taken, a module that is not there, a group that does not exist.
FAULTS = {
    "mergers": {"ties": "likes_plugin.merger:Scaled"},
    "readers": {"broken": "likes_plugin.nowhere:Reader"},
    "reader": {"typo": "likes_plugin.reader:Likes"},
}


def project() -> str:
    """The page's pyproject.toml."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return text


def entry_points() -> dict[str, dict[str, str]]:
    """The page's entry points by group."""
    found: dict[str, dict[str, str]] = tomllib.loads(project())["project"]["entry-points"]
    return found


def write_modules(folder: Path) -> None:
    """The code of the package."""
    (folder / "likes_plugin").mkdir(parents=True)
    (folder / "likes_plugin/__init__.py").write_text('"""Plugins."""\n')
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        (folder / code.splitlines()[0].removeprefix("# ")).write_text(code)


def install(folder: Path) -> None:
    """What `pip install --target FOLDER` leaves of the package, with some faults added."""
    write_modules(folder)
    info = folder / "likes_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: likes-plugin\nVersion: 1.2\n")
    groups = entry_points()
    for kinds, points in FAULTS.items():
        groups.setdefault(f"weavebench.{kinds}", {}).update(points)
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {at}" for name, at in points.items()), ""]
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
