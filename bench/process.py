"""This process: how it was launched, which processors it may use, how its threads wait."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["available_threads", "launched", "quiet_threads", "usable_cpus"]

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that a launcher of PyTorch started for one command."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(environment.get(name) for name in names) and environment["WORLD_SIZE"] != "1"


def quiet_threads() -> None:
    """Have libraries start no more threads than processors may be used, and these sleep while they wait.

    By default a thread of OpenMP that waits for the others of its team runs in a circle. If another
    program uses the same processors it takes from them, and from the very thread that it waits for:
    training steps were 20 times slower. The libraries read these variables when they are loaded, so
    that this must be called before torch is imported. What the environment says already stays.
    """
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("KMP_BLOCKTIME", "0")):
        os.environ.setdefault(name, value)
    cpus = usable_cpus()
    if cpus < _bound_to():  # libraries know the affinity, but no quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus))


def available_threads() -> int:
    """The most threads that are worth starting: :func:`usable_cpus`, and no more than OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cpus = usable_cpus()
    return min(cpus, int(asked)) if asked.isdecimal() and int(asked) else cpus


def _bound_to() -> int:
    """Processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cpus(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Processors that this process may use, >= 1: affinity, and the quota of its control groups.

    Args:
        groups: where the control groups are mounted.
        own: the file that names the groups of this process.
    """
    quotas = [q for folder in _folders(groups, own) if (q := _quota(folder)) is not None]
    # A part of a processor is a slow one.
    return max(1, min([_bound_to(), *map(math.ceil, quotas)]))


def _folders(groups: Path, own: Path) -> list[Path]:
    """Folders of the control groups of this process, and of all around them."""
    found = []
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    # "0::/user.slice/app" (version 2), "4:cpu,cpuacct:/docker/1234" (version 1).
    for line in [*lines, "0::/", "1:cpu:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be that of the host; what is mounted is then the container's own.
        for mount in (groups, groups / controllers, groups / "cpu") if controllers else (groups,):
            place = mount / path.lstrip("/")
            found += [one for one in (place, *place.parents) if one.is_relative_to(mount)]
    return list(dict.fromkeys(found))


def _quota(folder: Path) -> float | None:
    """Processors that a control group may use, or None if it says nothing."""
    try:
        if (folder / "cpu.max").is_file():
            quota, _, period = (folder / "cpu.max").read_text(encoding="ascii").partition(" ")
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        found = int(quota) / int(period)  # "max" is no number: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return found if found > 0 else None
