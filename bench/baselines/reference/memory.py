"""How much memory a process may still take."""

from __future__ import annotations

from pathlib import Path

from bench.memory import physical_memory

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be allocated without swapping, or None if the system does not say.

    On Linux the smaller of ``MemAvailable`` and what the control group of a container leaves;
    elsewhere all physical memory.
    """
    found = [value for value in (_from_meminfo(meminfo), _from_cgroup(cgroup)) if value is not None]
    return min(found) if found else physical_memory()


def _from_meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _from_cgroup(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
