"""How many processor cores this process may use, by its affinity and its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores() -> list[int]:
    """Return the numbers of the cores on which the scheduler may run this process."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_count(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return how many workers keep all usable cores busy: at least 1. A container's CPU limit counts, rounded up."""
    limits = [len(usable_cores())]
    for folder in _own_groups(cgroups, own):
        quota = _quota(folder / "cpu.max")
        if quota is not None:
            limits.append(math.ceil(quota))
    return max(1, min(limits))


def _own_groups(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of this process's control group and of its parents (cgroups(7), version 2)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::/")), "/")
    inner = PurePosixPath(path)
    return [cgroups / group.relative_to("/") for group in (inner, *inner.parents) if ".." not in group.parts]


def _quota(file: Path) -> float | None:
    """Return the cores that `cpu.max` grants ("200000 100000" is two); None where there is no limit."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
