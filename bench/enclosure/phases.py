"""The phases of one run of a plugin: constructor, fit, load, save, score."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench
from bench.data.domain import Domain
from bench.data.sources import data_root_or_env, domains_root, stored_names
from bench.enclosure.decoy import Decoy, write_decoy
from bench.enclosure.inputs import arrays_of, frozen
from bench.enclosure.patches import Code, replaced_code
from bench.enclosure.watch import Places, Watch, watched
from bench.errors import MethodError
from bench.io import cache_root, store_root
from bench.methods import Method
from bench.methods.registry import METHODS
from bench.registry import BUILT_IN

__all__ = ["Enclosure", "enclose_import", "enclose_run", "held_out_places", "own_module"]


# Made beforehand and linked, so that what a method stores there is kept.
_SHARED = ("adapters", "backbones", "pretraining", "text-vectors")


@dataclass(frozen=True, slots=True)
class Enclosure:
    """Where one plugin runs.

    Attributes:
        watch: what is refused meanwhile.
        decoy: what the environment leads to meanwhile.
        code: the harness's, which stays in its place.
    """

    watch: Watch
    decoy: Decoy
    code: Code

    @contextmanager
    def phase(self, name: str, *free: Path, **inputs: Any) -> Iterator[None]:
        """Run code of the plugin in the block.

        Args:
            name: of the phase, for messages.
            free: further folders that it may read.
            inputs: what it is given and must not change.

        Raises:
            MethodError: it read what it must not, or changed its inputs.
        """
        arrays = {k: a for key, value in inputs.items() for k, a in arrays_of(value, key).items()}
        changed: list[str] = []
        places = self.watch.places
        now = replace(places, free=(*places.free, *(Path(os.path.realpath(f)) for f in free)))
        watch = replace(self.watch, label=f"{self.watch.label}: {name}()", places=now, seen=[])
        with self.decoy.shown(), watched(watch), frozen(arrays, changed.append):
            yield
        replaced = self.code.restored()
        if not replaced and name in ("fit", "load"):
            replaced = replaced_code(self.watch.module)
        _require_own_code(watch.label, replaced)
        if changed:
            raise MethodError(
                f"{watch.label} changed what it was given ({', '.join(changed)}); expected it to be left "
                "as it was. Work on copies."
            )


@contextmanager
def enclose_run(
    label: str,
    method_cls: type[Method],
    domains: Iterable[Domain],
    *,
    data_root: Path | None,
    store: Path,
    free: tuple[Path, ...],
    data: tuple[Path, ...] = (),
    runs: tuple[Path, ...] = (),
) -> Iterator[Enclosure]:
    """Prepare the places for a run of a plugin, and remove them at the end.

    Args:
        label: the method, for messages.
        method_cls: its class.
        domains: target and sources.
        data_root: the data root given.
        store: the store given.
        free: folders that the method may read, inside of the store as well.
        data: further files that hold held-out events.
        runs: what tells ranks inside of the free folders.
    """
    places = held_out_places(method_cls, data_root, store)
    for name in _SHARED:
        (cache_root() / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="weavebench-run-") as name:
        decoy = write_decoy(Path(name), domains, seed=0, method=method_cls.name)
        places = Places(
            (*places.data, *data, decoy.domains), (*places.runs, *runs, decoy.store), free
        ).resolved()
        module = own_module(method_cls)
        between = Watch(f"{label}: between its phases, it", module, places, threading.get_ident())
        with watched(between):
            yield Enclosure(Watch(label, module, places), decoy, Code.now())


@contextmanager
def enclose_import(name: str, *, data_root: Path | None = None) -> Iterator[None]:
    """Import a method's module in the block: the code that a plugin runs there is watched as well.

    Args:
        name: name of the method.
        data_root: the data root given.

    Raises:
        MethodError: it reads prepared domains or stored runs.
    """
    if name in METHODS and METHODS.origin(name) == BUILT_IN:
        yield
        return
    places = held_out_places(None, data_root, None).resolved()
    code = Code.now()
    with watched(Watch(f"{name}: the import", "", places)):
        yield
    _require_own_code(f"{name}: the import", code.restored())


def _require_own_code(label: str, replaced: list[str]) -> None:
    if replaced:
        raise MethodError(
            f"{label} runs with its own code in the harness ({', '.join(replaced[:5])}); expected "
            "the package as it is. Subclass or wrap what you want to change."
        )


def own_module(method_cls: type[Method]) -> str:
    """Top-level module of a plugin's code; "" for classes of this package."""
    top = method_cls.__module__.partition(".")[0]
    return "" if top == "bench" else top


def held_out_places(
    method_cls: type[Method] | None, data_root: Path | None, store: Path | None
) -> Places:
    """Where this machine keeps prepared domains, stored runs and published results."""
    cache = cache_root()
    data = [domains_root(), cache / "domains-cache", cache / "assets" / "ml-100k"]
    root = data_root_or_env(data_root)
    if root is not None:
        # Whatever else lies there, for example a model, may be read.
        data += [root / name for name in stored_names(root)]
    code = _code(method_cls)
    # Published results tell ranks as well: those of the checkout, or what is named.
    runs = [Path(bench.__file__).resolve().parents[1] / "leaderboards" / "results"]
    runs += [Path(named) for named in (os.environ.get("BENCH_PUBLISHED"),) if named]
    for place in {store or store_root(), store_root()}:
        if not _holds(place, code):
            runs.append(place)
        elif place.is_dir():
            runs += [entry for entry in place.iterdir() if _is_runs(entry)]
    return Places(tuple(data), tuple(runs))


def _is_runs(folder: Path) -> bool:
    return folder.name == ".work" or any(folder.glob("*/manifest.json"))


def _code(method_cls: type[Method] | None) -> list[Path]:
    """Folders that Python code is loaded from."""
    module = None if method_cls is None else sys.modules.get(method_cls.__module__)
    file = getattr(module, "__file__", None)
    paths = [sys.prefix, sys.base_prefix, __file__, *([file] if file else [])]
    return [Path(os.path.realpath(path)) for path in paths]


def _holds(folder: Path, code: Iterable[Path]) -> bool:
    real = Path(os.path.realpath(folder))
    return any(path.is_relative_to(real) for path in code)
