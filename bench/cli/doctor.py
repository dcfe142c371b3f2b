"""``bench doctor``: what this machine has, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import typer

import bench
from bench.cli.output import echo, human_bytes, print_table
from bench.errors import ConfigError
from bench.process import usable_cpus

__all__ = ["doctor"]

_PACKAGES = (
    "weavebench",
    "numpy",
    "scipy",
    "polars",
    "pydantic",
    "torch",
    "recbole",
    "transformers",
)


def doctor() -> None:
    """Show what this machine has, and what is missing.

    Versions, folders, assets, domains, threads and the torch device. Exit code 1 on a problem.
    """
    from bench import assets
    from bench.data.catalogue import CATALOGUE, GROUPS
    from bench.data.load import missing_domains
    from bench.io import cache_root, store_root
    from bench.registry import all_problems

    problems = _owners()
    echo(f"Python {platform.python_version()} on {platform.platform()}")
    print_table(("package", "version"), [(name, _version(name)) for name in _PACKAGES])

    data_root = os.environ.get("BENCH_DATA_ROOT")
    folders = [
        ("store (BENCH_STORE)", store_root()),
        ("cache (BENCH_CACHE)", cache_root()),
        ("data root (BENCH_DATA_ROOT)", Path(data_root) if data_root else None),
    ]
    echo()
    print_table(
        ("folder", "path", "free"),
        [(label, path or "not set", _free(path) if path else "") for label, path in folders],
    )
    problems += [
        f"{label}: {path} cannot be written."
        for label, path in folders[:2]
        if path is not None and not _writable(path)
    ]

    echo()
    print_table(
        ("asset", "state"),
        [
            (name, "present" if assets.is_present(name) else f"absent: bench assets pull {name}")
            for name in sorted(assets.ASSETS)
        ],
    )
    try:
        missing = set(missing_domains(tuple(CATALOGUE)))
    except ConfigError as error:
        problems.append(str(error))
    else:
        echo()
        print_table(
            ("study group", "here", "missing"),
            [
                (
                    group,
                    ", ".join(name for name in names if name not in missing),
                    ", ".join(name for name in names if name in missing),
                )
                for group, names in GROUPS.items()
            ],
        )
    echo(f"\n{_threads()}\n{_torch(problems)}")
    problems += [f"{found.name} ({found.origin}): {found.reason}" for found in all_problems()]
    for problem in problems:
        echo(f"problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    echo("No problem found.")


def _owners() -> list[str]:
    """What is wrong if another distribution brings a package ``bench`` too: pip merges their files."""
    others = sorted(set(packages_distributions().get("bench", ())) - {"weavebench"})
    ours = "load_task" in getattr(bench, "__all__", ())
    if ours and not others:
        return []
    where = f"the Python package 'bench' in {', '.join(bench.__path__)}"
    if not others:
        return [
            f"{where} lacks weavebench's own __init__.py. Install it again: "
            "pip install --force-reinstall --no-deps weavebench"
        ]
    return [
        f"{where} is {'shared with' if ours else 'that of'} {', '.join(others)}. Install weavebench into an "
        "environment of its own."
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _free(path: Path) -> str:
    return human_bytes(shutil.disk_usage(_existing(path)).free)


def _writable(path: Path) -> bool:
    return os.access(_existing(path), os.W_OK)


def _threads() -> str:
    usable, cpus = usable_cpus(), os.cpu_count()
    return f"{usable} of {cpus} CPUs usable (affinity, quotas), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"


def _torch(problems: list[str]) -> str:
    if find_spec("torch") is None:
        return "torch: not installed; methods that train need it: pip install 'weavebench[models]'"
    try:
        import torch
    except ImportError as error:
        problems.append(
            f"torch cannot be imported ({error}); repair it: pip install --force-reinstall torch"
        )
        return "torch: not usable"
    if torch.cuda.is_available():
        names = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        return f"torch device: cuda ({names})"
    return "torch device: cpu"
