"""Every command in the documentation exists: make targets in the Makefile, `bench ...` in the parser.

The `bench` commands are parsed by the real parser of the command line and not run.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from bench.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SHELL_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:make|bench)\s[^`]+)`")
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*")


def commands_of(text: str) -> list[tuple[str, bool]]:
    """Commands that begin with make or bench, with whether they stand in a shell block.

    The others are inline code, which may also just mention a verb without its arguments.
    """
    found = []
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
            while ASSIGNMENT.match(words.split(" ", 1)[0]):
                words = words.split(" ", 1)[1] if " " in words else ""
            if re.match(r"(make|bench)(\s|$)", words):
                found.append((words, True))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += [(" ".join(command.split()), False) for command in INLINE.findall(prose)]
    return found


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.M))


def check(command: str, complete: bool = True) -> None:
    """Raise AssertionError where the command line would refuse ``command``.

    Args:
        command: what stands in the documentation.
        complete: whether the verb's arguments must be there; otherwise naming the verb is enough.
    """
    program, *arguments = shlex.split(command.split(" | ")[0], comments=True)
    if program == "make":
        wanted = [word for word in arguments if not ASSIGNMENT.match(word)]
        unknown = set(wanted) - make_targets()
        assert not unknown, f"{command!r}: the Makefile has no target {sorted(unknown)}"
        return
    parse(typer.main.get_command(app), arguments, command, complete)


def parse(command, arguments: list[str], shown: str, complete: bool) -> None:
    """Parse ``arguments`` down the tree of sub-commands without running any of them."""
    arguments = [a for a in arguments if a not in {"--help", "-h", "--version"}]
    if not arguments and (not complete or command.name == "bench"):
        return
    try:
        context = command.make_context(command.name, list(arguments))
        if not hasattr(command, "commands"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, sub, remaining = command.resolve_command(context, rest)
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else repr(error)
        raise AssertionError(f"{shown!r}: the parser refuses it: {message}") from error
    assert sub is not None, f"{shown!r}: no verb"
    parse(sub, remaining, shown, complete)


def documented() -> list[tuple[str, str, bool]]:
    return [(page.name, *found) for page in PAGES for found in commands_of(page.read_text())]


@pytest.mark.parametrize(
    ("page", "command", "complete"),
    documented(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_documented_command_is_accepted(page, command, complete):
    check(command, complete)


def test_the_pages_hold_the_two_commands_that_do_everything():
    commands = commands_of((ROOT / "README.md").read_text())
    assert ("make demo", True) in commands
    assert ("make test", True) in commands


@pytest.mark.parametrize(
    "command",
    [
        "make dmeo",
        "make install dmeo PYTHON=python3",
        "bench rnu --method random --target ml100k-drama",
        "bench run --method random",
        "bench run --method random --target ml100k-drama --sed 0",
        "bench run --method random --target ml100k-drama --negatives unifrom",
        "bench run --method random --target ml100k-drama --n-negatives many",
        "bench runs shwo 123",
        "bench data import",
        "bench leaderboard --format pdf --target ml100k-drama",
        "bench adaptors list",
        "bench adapters export 3f0c12ab",
    ],
)
def test_wrong_commands_are_refused(command):
    with pytest.raises(AssertionError):
        check(command)


def test_a_mention_needs_no_arguments_but_a_real_verb():
    check("bench data import", complete=False)
    with pytest.raises(AssertionError):
        check("bench data imprt", complete=False)


def test_commands_are_found_in_blocks_and_in_prose():
    text = (
        "Call `bench doctor` or `bench data\nlist`.\n```bash\n$ FOO=1 make test JOBS=4\n"
        "bench run --method a \\\n  --target b\nls\n```\n```text\nmake nothing\n```\n"
    )
    assert commands_of(text) == [
        ("make test JOBS=4", True),
        ("bench run --method a    --target b", True),
        ("bench doctor", False),
        ("bench data list", False),
    ]


def links_of(text: str) -> list[str]:
    """Targets of relative Markdown links, without anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link.split("#")[0] for link in found if "://" not in link and not link.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    broken = [link for link in links_of(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


def test_every_page_is_in_the_index():
    linked = set(links_of((ROOT / "docs/index.md").read_text()))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} == linked


def test_glossary_is_in_order_and_explains_words_that_are_used():
    page = ROOT / "docs/glossary.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    words = [row.split("|")[1].strip() for row in rows]
    assert words == sorted(set(words))
    others = " ".join(other.read_text().lower() for other in PAGES if other != page)
    assert [word for word in words if not re.search(rf"\b{word.lower()}", others)] == []
