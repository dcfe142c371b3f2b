"""The adapter store: a LoRA adapter is made once and serves every method that asks for it.

::

    <cache>/adapters/
      3f0c.../               one adapter, a PEFT folder
        adapter_config.json  adapter_model.safetensors
        bench_adapter.json   recipe, lineage, costs, SHA-256 of the files
      .work/3f0c.../         what an unfinished training left: its checkpoints
      .work/3f0c....lock     held by the process that trains

An adapter is named by what decides its weights (a *recipe*, see :mod:`bench.llm.recipes`), never by who
asked. Imports neither torch nor transformers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import __version__
from bench.errors import MethodError, MissingAdapterError, ResultError, did_you_mean
from bench.io import cache_root, lock, require_free_space, write_json
from bench.llm.adapter_files import (
    FORMAT,
    METADATA,
    PACKAGES,
    Meter,
    StoredAdapter,
    check_files,
    json_report,
    may_pass,
    origin_of,
    peft_files,
    read_stored,
    sync_files,
    sync_folder,
    with_own_hash,
)
from bench.llm.recipes import ADAPTER_ID, AdapterSpec, InitSpec, MergedSpec, MixturePart, Recipe
from bench.methods import AdapterUse, Context, Progress, QuietProgress
from bench.partial import discard, sweep
from bench.stamp import package_versions, utc_now
from bench.waiting import patience

__all__ = [
    "AdapterSpec",
    "AdapterStore",
    "InitSpec",
    "MergedSpec",
    "MixturePart",
    "Recipe",
    "StoredAdapter",
    "adapters_of",
]

_WORK, _OUT, _CHECKPOINTS, _EARLIER = ".work", "out", "checkpoints", "earlier.json"
_FREE_BYTES = 256_000_000

Make = Callable[[Path, Path], Mapping[str, Any]]
Watcher = Callable[[tuple[AdapterUse, ...], float, float], None]


def adapters_of(context: Context) -> AdapterStore:
    """The store of a run's context.

    Raises:
        MethodError: the context has none; the method's ``adapter_store`` hook does not name one.
    """
    store = context.adapters
    if not isinstance(store, AdapterStore):
        raise MethodError(
            f"the context holds {type(store).__name__} for adapters, expected an AdapterStore. Let the "
            "method's adapter_store() return bench.llm.adapters.AdapterStore."
        )
    return store


@dataclass(slots=True, eq=False)
class AdapterStore:
    """A folder of adapters; several processes may use one.

    Attributes:
        root: the folder; it need not exist until something is made.
    """

    root: Path = field(default_factory=lambda: cache_root() / "adapters")
    _used: dict[str, AdapterUse] = field(default_factory=dict)
    _watchers: list[Watcher] = field(default_factory=list)

    @property
    def used(self) -> tuple[AdapterUse, ...]:
        """Adapters asked for through this instance, with those they were merged from."""
        return tuple(self._used.values())

    def watch(self, on_use: Watcher) -> None:
        """Have ``on_use`` called after every adapter asked for, see :class:`bench.methods.SharedStore`."""
        self._watchers.append(on_use)

    def has(self, adapter_id: str) -> bool:
        """Whether the adapter is stored, complete; counts as no use."""
        return (self._folder(adapter_id) / METADATA).is_file()

    def find(self, adapter_id: str) -> StoredAdapter | None:
        """The stored adapter, or None; counts as a use.

        Raises:
            ResultError: it is damaged.
        """
        found = self._checked(adapter_id)
        if found is not None:
            self._note(found.uses(), 0.0, 0.0)
        return found

    def obtain(
        self, spec: Recipe, make: Make, *, progress: Progress | None = None, wait: bool = True
    ) -> StoredAdapter:
        """The adapter of a recipe: read from the store, or made now, once whoever else asks.

        While another process makes it, this one waits. ``make`` that is killed or interrupted, or
        that finds a full disk, leaves its checkpoints to the next caller; of a ``make`` that fails by
        itself nothing is kept, for it would only fail again.

        Args:
            spec: the recipe.
            make: called as ``make(out, checkpoints)`` with two folders; writes the PEFT files into
                ``out`` and may keep checkpoints in the other, which outlives a kill. Returns a JSON
                report; its ``seconds`` and ``cpu_seconds`` (of all attempts) and ``tokens``, if
                given, are the recorded cost.
            progress: reporter.
            wait: whether to wait while another process makes it (:func:`bench.waiting.patience`).

        Returns:
            The stored adapter.

        Raises:
            InUseError: another process makes it, for longer than this one was to wait.
            ResultError: the stored adapter is damaged, or one that it is merged from is not stored.
            MethodError: ``make`` left no PEFT adapter.
            BenchError: the disk is nearly full.
        """
        progress = progress or QuietProgress()
        found = self._checked(spec.adapter_id)
        if found is not None:
            self._sweep(spec.adapter_id)
            self._note(found.uses(), 0.0, 0.0)
            return found
        wall, cpu = time.perf_counter(), time.process_time()
        uses: tuple[AdapterUse, ...] = ()
        try:
            with self._making(spec, progress, wait=wait) as work:
                # Another process may have made it while this one waited.
                found = self._checked(spec.adapter_id)
                made = found is None
                if found is None:
                    with progress.stage(f"adapter {spec.adapter_id[:8]}: {spec.summary}"):
                        found = self._made(spec, make, work)
            uses = found.uses(trained_now=made)
            return found
        finally:
            self._note(uses, time.perf_counter() - wall, time.process_time() - cpu)

    def init(
        self,
        backbone_hash: str,
        lora: Mapping[str, Any] | Any,
        init_seed: int,
        make: Callable[[Path], str],
    ) -> Path:
        """Folder of the shared initialisation of all adapters of one backbone, shape and seed.

        Factors can be averaged only if they started from the same draw, so that every adapter of a
        study begins with these very files.

        Args:
            backbone_hash: content hash of the backbone.
            lora: shape of the adapters, a mapping or a pydantic model.
            init_seed: seed of the draw, fixed per study.
            make: writes the PEFT files into the folder it is given, and returns the hash of the factors,
                by which a merger knows adapters of one draw.
        """

        def write(out: Path, _checkpoints: Path) -> Mapping[str, Any]:
            return {"factors_sha256": make(out)}

        spec = InitSpec(backbone_hash=backbone_hash, lora=lora, init_seed=init_seed)
        found = self._checked(spec.adapter_id)
        if found is None:
            with self._making(spec, QuietProgress()) as work:
                found = self._checked(spec.adapter_id) or self._made(spec, write, work)
        return found.folder

    def get(self, name: str) -> StoredAdapter:
        """Look an adapter up by its id or the first digits of it; the files are not compared.

        Raises:
            MissingAdapterError: no adapter or several of that name.
            ResultError: its metadata are damaged.
        """
        return read_stored(self.locate(name))

    def locate(self, name: str) -> Path:
        """Folder of the adapter that ``name`` means, readable or not; raises like :meth:`get`."""
        known = [folder.name for folder in self.folders()]
        found = [adapter_id for adapter_id in known if name and adapter_id.startswith(name)]
        if len(found) == 1:
            return self.root / found[0]
        if found:
            shown = ", ".join(found[:8])
            raise MissingAdapterError(
                f"{name!r} means {len(found)} adapters in {self.root}: {shown}. Give more digits."
            )
        raise MissingAdapterError(
            f"no adapter {name!r} among the {len(known)} in {self.root}.{did_you_mean(name, known)} "
            "`bench adapters list` shows them; BENCH_CACHE names another cache."
        )

    def folders(self) -> list[Path]:
        """Folders of adapters, damaged ones too, in order of their id."""
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path for path in found if path.is_dir() and ADAPTER_ID.fullmatch(path.name))

    def list(self, damaged: list[str] | None = None) -> list[StoredAdapter]:
        """All adapters, by kind, label and id.

        Args:
            damaged: receives one line per folder that cannot be read; None = the first is an error.

        Raises:
            ResultError: a damaged adapter, if ``damaged`` is None.
        """
        adapters = []
        for folder in self.folders():
            try:
                adapters.append(read_stored(folder))
            except ResultError as error:
                if not folder.exists():
                    continue  # removed meanwhile
                if damaged is None:
                    raise
                damaged.append(str(error))
        return sorted(adapters, key=lambda a: (a.kind, a.label, a.adapter_id))

    def remove(self, name: str) -> Path:
        """Delete an adapter (also a damaged one) at once, and return the folder it was in.

        Raises:
            MissingAdapterError: no adapter or several of that name.
            ResultError: a process is making it again.
        """
        folder = self.locate(name)
        work = self._work(folder.name)
        with lock(work, timeout=5.0):
            for path in (folder, work):
                with suppress(FileNotFoundError):
                    discard(path)
        return folder

    def export(self, name: str, destination: Path) -> Path:
        """Copy an adapter to a folder that PEFT loads anywhere; see :mod:`bench.llm.adapter_export`."""
        from bench.llm.adapter_export import export_adapter

        return export_adapter(self.get(name), destination)

    def unfinished(self) -> Sequence[Path]:
        """Work folders of adapters whose training was interrupted, or runs now."""
        work = self.root / _WORK
        names = sorted(work.iterdir()) if work.is_dir() else []
        return [path for path in names if path.is_dir() and ADAPTER_ID.fullmatch(path.name)]

    def clean(self) -> Sequence[Path]:
        """Delete the checkpoints of adapters that no process works on; return their work folders.

        What killed processes left under construction goes, too.
        """
        removed = []
        for folder in self.unfinished():
            with suppress(ResultError, FileNotFoundError), lock(folder, timeout=0):
                discard(folder)
                removed.append(folder)
        return [*removed, *sweep(self.root), *sweep(self.root / _WORK)]

    def _folder(self, adapter_id: str) -> Path:
        return self.root / adapter_id

    def _work(self, adapter_id: str) -> Path:
        return self.root / _WORK / adapter_id

    def _checked(self, adapter_id: str) -> StoredAdapter | None:
        """The adapter with its files compared, or None if it is not stored."""
        folder = self._folder(adapter_id)
        if not folder.exists():
            return None
        try:
            found = read_stored(folder)
            check_files(found)
        except ResultError:
            if not folder.exists():
                return None  # removed meanwhile
            raise
        return found

    def _note(self, uses: tuple[AdapterUse, ...], seconds: float, cpu_seconds: float) -> None:
        for use in uses:
            known = self._used.get(use.adapter_id)
            now = use.trained_now or (known is not None and known.trained_now)
            self._used[use.adapter_id] = replace(use, trained_now=now)
        told = tuple(self._used[use.adapter_id] for use in uses)
        for on_use in self._watchers:
            on_use(told, seconds, cpu_seconds)

    @contextmanager
    def _making(self, spec: Recipe, progress: Progress, *, wait: bool = True) -> Iterator[Path]:
        """Hold the lock of an adapter; released by the system when the process dies."""
        work = self._work(spec.adapter_id)
        what = f"adapter {spec.adapter_id[:8]} ({spec.summary})"
        tell = None if type(progress) is QuietProgress else progress.status
        with patience(tell=tell), lock(work, timeout=None if wait else 0, what=what):
            yield work

    def _made(self, spec: Recipe, make: Make, work: Path) -> StoredAdapter:
        """Make an adapter in ``work`` and move it to its place; the lock is held."""
        lineage = [asdict(use) for parent in spec.lineage for use in self._parent(parent).uses()]
        for use in lineage:
            del use["trained_now"]
        require_free_space(self.root, _FREE_BYTES)
        out, checkpoints = work / _OUT, work / _CHECKPOINTS
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        checkpoints.mkdir(exist_ok=True)
        meter = Meter(work / _EARLIER)
        try:
            report = json_report(make(out, checkpoints), spec.summary)
            origin = origin_of(out)
            metadata = {
                "format": FORMAT,
                "adapter_id": spec.adapter_id,
                "kind": spec.kind,
                "label": spec.summary,
                "recipe": spec.description(),
                "lineage": list({use["adapter_id"]: use for use in lineage}.values()),
                "base_hash": self._base_of(spec, origin),
                "init_hash": self._init_of(spec, report, origin),
                "origin": origin,
                "cost": meter.cost(report),
                "report": report,
                "packages": package_versions(__version__, PACKAGES),
                "created": utc_now(),
                "files": peft_files(out, spec.summary),
            }
        except BaseException as error:
            if may_pass(error):
                meter.save()
            else:
                shutil.rmtree(work, ignore_errors=True)
            raise
        write_json(out / METADATA, with_own_hash(metadata))
        sync_files(out)
        out.rename(self._folder(spec.adapter_id))
        sync_folder(self.root)
        shutil.rmtree(work, ignore_errors=True)
        return read_stored(self._folder(spec.adapter_id))

    def _sweep(self, adapter_id: str) -> None:
        """Remove what is left if a process died after its adapter was in place."""
        work = self._work(adapter_id)
        if work.exists():
            with suppress(ResultError), lock(work, timeout=0):
                shutil.rmtree(work, ignore_errors=True)

    def _parent(self, adapter_id: str) -> StoredAdapter:
        found = self._checked(adapter_id)
        if found is None:
            raise ResultError(
                f"adapter {adapter_id} is to be merged and is not in {self.root}; it was removed "
                "meanwhile. Repeat the command, which trains it again."
            )
        return found

    def _base_of(self, spec: Recipe, origin: Mapping[str, Any]) -> str | None:
        """Content hash of the backbone; of merged adapters, the one that all have."""
        if isinstance(spec, AdapterSpec | InitSpec):
            return spec.backbone_hash
        hashes = {self._parent(one).metadata.get("base_hash") for one in spec.lineage}
        known = hashes.pop() if len(hashes) == 1 else origin.get("base_hash")
        return known if isinstance(known, str) else None

    def _init_of(
        self, spec: Recipe, report: Mapping[str, Any], origin: Mapping[str, Any]
    ) -> str | None:
        """Hash of the factors that training began with; of a merged adapter, what its maker says."""
        known: object = origin.get("init_hash")
        if isinstance(spec, InitSpec):
            known = report.get("factors_sha256")
        elif isinstance(spec, AdapterSpec):
            found = self._checked(spec.init.adapter_id)
            known = None if found is None else found.metadata.get("init_hash")
        return known if isinstance(known, str) else None
