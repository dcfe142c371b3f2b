"""The machine around a run: packages, hardware, revision, memory, CPU threads."""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

import bench
from bench.errors import ConfigError
from bench.memory import physical_memory
from bench.methods import Method
from bench.process import available_threads, quiet_threads
from bench.runs.spec import RunSpec

__all__ = [
    "RECORDED",
    "MemoryMeter",
    "available_threads",
    "git_revision",
    "hardware",
    "limit_threads",
    "require_device",
    "run_threads",
]

RECORDED = (
    "numpy",
    "scipy",
    "polars",
    "pydantic",
    "torch",
    "recbole",
    "pandas",
    "scikit-learn",
    "transformers",
    "peft",
    "accelerate",
    "vllm",
    "safetensors",
)
"""Packages that a score may depend on."""


def require_device(device: str, *, present: bool = True) -> None:
    """Refuse a device that cannot work before any data are read.

    Args:
        device: what was asked for.
        present: whether this machine must have it; a plan may be made for another one.

    Raises:
        ConfigError: no name of a device, or torch sees none of its kind.
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?|mps", device):
        raise ConfigError(f"--device {device!r}: expected cpu, cuda, cuda:N or mps.")
    if not present:
        return
    import torch

    backend = torch.backends.mps if device == "mps" else torch.cuda
    if not backend.is_available():
        raise ConfigError(
            f"--device {device}: torch {torch.__version__} sees no such device. Use --device cpu, or "
            "install a torch build for it (docs/install.md)."
        )


def run_threads(spec: RunSpec, method_cls: type[Method]) -> int:
    """CPU threads of a run: what is asked for, else what the method gains from and the process may use."""
    if spec.threads is not None:
        return spec.threads
    most = method_cls.run_defaults(spec.profile).threads
    return available_threads() if most is None else min(most, available_threads())


def hardware(device: str) -> dict[str, Any]:
    """Processor, memory (MB) and accelerator; no host or user name."""
    memory = physical_memory()
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 1,
        "memory_mb": None if memory is None else memory // 1_000_000,
        "device": device,
    }
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name(torch.device(device))
    return found


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    match = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or "unknown"


@functools.cache
def git_revision() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` when edited; else None.

    Asked once per process: the code that runs is the code that was loaded.
    """
    root = Path(bench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "bench")
    return commit + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class MemoryMeter:
    """Peak resident memory of a run, in MB (1e6 bytes).

    On Linux the kernel's high-water mark (``VmHWM``) is reset when the meter starts, so the figure
    belongs to this run. Elsewhere, or where the reset is refused, the figure is the peak of the whole
    process so far. ``kind`` says which. Memory of child processes is not included.
    """

    def __init__(self) -> None:
        self.kind = "process"
        try:
            # "5" resets the peak only (proc(5), clear_refs); no page is touched.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self.kind = "run"
        except OSError:
            pass
        self.start_mb = self.peak_mb()

    def peak_mb(self) -> float:
        """Peak so far."""
        if self.kind == "run":
            try:
                status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            except OSError:
                status = ""
            match = re.search(r"^VmHWM:\s*(\d+) kB", status, flags=re.MULTILINE)
            if match:
                return round(int(match.group(1)) * 1024 / 1e6, 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)

    def as_dict(self) -> dict[str, Any]:
        """``mb``, ``mb_at_start`` and ``kind``, and the accelerator's peak if one was used."""
        figures: dict[str, Any] = {
            "mb": self.peak_mb(),
            "mb_at_start": self.start_mb,
            "kind": self.kind,
        }
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            figures["accelerator_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
        return figures


@contextmanager
def limit_threads(n: int) -> Iterator[Callable[[], None]]:
    """Limit BLAS and torch to ``n`` threads while the block runs, and restore both afterwards.

    Torch is not imported for it. If a method imports torch inside the block, torch finds
    ``OMP_NUM_THREADS`` set to ``n``; the variable is restored at the end. Tokenizers that are first
    used inside the block find ``RAYON_NUM_THREADS`` likewise, unless it is set.

    Yields:
        A function that applies the limit again; the runner calls it before each fit, validation and
        scoring, so that a method which changed the number does not keep the change.
    """
    before: list[int] = []

    def apply() -> None:
        torch = _loaded_torch()
        if torch is None:
            return
        if not before:
            before.append(torch.get_num_threads())
        if torch.get_num_threads() != n:
            torch.set_num_threads(n)

    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(limits=n, user_api="blas"))
        if "RAYON_NUM_THREADS" not in os.environ:
            stack.enter_context(_variable("RAYON_NUM_THREADS", str(n)))
        if _loaded_torch() is None:
            quiet_threads()
            # Torch that is imported below starts with n threads; its own default is all of them.
            before.append(available_threads())
            stack.enter_context(_variable("OMP_NUM_THREADS", str(n)))
        apply()
        try:
            yield apply
        finally:
            torch = _loaded_torch()
            if torch is not None and torch.get_num_threads() != before[0]:
                torch.set_num_threads(before[0])


def _loaded_torch() -> Any:
    """The torch module if something has imported it completely, else None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") else None


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the block."""
    known = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if known is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = known
