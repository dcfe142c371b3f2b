"""The output in the README is what its command prints, apart from times and run ids."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import assets
from bench.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE = re.compile(r"```bash\n(bench run [^\n]*)\n```\n\n```text\n(.*?)```", re.S)


def without_costs(text: str) -> list[str]:
    """Lines without fit times, run ids and column widths; they may differ between machines."""
    lines = [re.sub(r"\b[0-9.]+ s\b|\(?\b[0-9a-f]{8}\b\)?", "", line) for line in text.splitlines()]
    lines = [" ".join(line.split()) for line in lines]
    return [line for line in lines if line.strip("- ")]


def test_costs_are_removed_and_figures_are_not():
    lines = without_costs("ease  cpu  0.2689 [0.2403, 0.2975]  0.1 s  390a6a6d\n----  --\n")
    assert lines == ["ease cpu 0.2689 [0.2403, 0.2975]"]


@pytest.mark.skipif(
    not assets.is_present("ml-100k"), reason="needs the asset: bench assets pull ml-100k"
)
def test_readme_shows_the_real_output(tmp_path, monkeypatch):
    for name in ("BENCH_STORE", "BENCH_DATA_ROOT", "BENCH_PUBLISHED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    found = EXAMPLE.search(README)
    assert found is not None
    command, shown = found.groups()
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    # Elsewhere than in the checkout the place of the published results is a whole path.
    printed = result.stdout.replace(f"{ROOT}/", "")
    assert without_costs(printed) == without_costs(shown)
