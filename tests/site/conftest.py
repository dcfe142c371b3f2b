"""A site made of runs written by hand, and a real browser to open it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from report_runs import RunWriter, random_outcomes
from site_pages import site_of

# What a browser needs in a container, and what keeps it from calling its vendor.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two targets; a trained method with two seeds, one with few users, one with a damaged record."""
    write = RunWriter(tmp_path_factory.mktemp("store"))
    found = []
    for target, task in (("toyland", "a" * 64), ("bookshop", "b" * 64)):
        n = 400
        common = {"target": target, "task": task}
        for method, skill, fit in (("popularity", 0.4, 0.0), ("item-knn", 0.9, 0.5)):
            outcomes = random_outcomes(n, 1, skill)
            found.append(write(method, outcomes, fit=fit, **common))
        for seed in (0, 1):
            outcomes = random_outcomes(n, 10 + seed, 1.4)
            options = {"hidden_size": 64, "dropout": 0.5}
            found.append(
                write("sasrec", outcomes, family="single-domain", seed=seed, fit=120.0 + seed,
                      config=options, **common)
            )  # fmt: skip
        outcomes = random_outcomes(50, 3, 1.0)
        found.append(
            write("tallrec", outcomes, family="llm", users=np.arange(50), n_total=n, **common)
        )
    return found


@pytest.fixture(scope="session")
def site(runs, tmp_path_factory) -> Path:
    """The front page of a site of both targets."""
    return site_of(runs, tmp_path_factory.mktemp("public") / "site", ["toyland", "bookshop"])


def find_chromium() -> str | None:
    named = os.environ.get("BENCH_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium of the system; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium: install the package chromium, or name one in BENCH_CHROMIUM")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """A page with what a visitor never sees: its console, its errors, its requests."""

    page: object
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def note_failure(self, request) -> None:
        # Leaving a page early aborts what it was still loading.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"{request.url}: {request.failure}")

    def open(self, path: Path, fragment: str = ""):
        self.page.goto(path.as_uri() + fragment)
        return self.page


@pytest.fixture
def visit(browser):
    """Makes visits with the given context options; at the end nothing went wrong in any of them."""
    visits, contexts = [], []

    def start(**options) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        new = Visit(context.new_page())
        new.page.on("console", lambda message: new.problems.append(message.text))
        new.page.on("pageerror", lambda error: new.problems.append(str(error)))
        new.page.on("requestfailed", new.note_failure)
        new.page.on("request", lambda request: new.requests.append(request.url))
        visits.append(new)
        return new

    yield start
    for context in contexts:
        context.close()
    for done in visits:
        assert done.problems == []
        outside = [url for url in done.requests if not url.startswith(("file:", "data:"))]
        assert outside == []
