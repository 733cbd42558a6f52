"""Processes and sockets, as /proc shows them, and waiting for a condition."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], timeout_s: float = 90.0, what: str = "the condition") -> None:
    """Wait until the condition is true. Raises AssertionError at the timeout."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"{what} did not come about in {timeout_s:g} s")
        time.sleep(0.02)


def stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); empty when there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def children(parent: int) -> list[int]:
    """The living children of a process, oldest first: the ids of new processes may be lower."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    found = [(pid, stat(pid)) for pid in pids]
    living = [(int(fields[19]), pid) for pid, fields in found if fields[1:2] == [str(parent)] and fields[0] != "Z"]
    return [pid for _, pid in sorted(living)]


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return stat(pid)[:1] not in ([], ["Z"])


def reaped(pid: int) -> bool:
    """Whether its parent has seen the end of a process. Until then a thread of it may still hold its sockets open,
    though it counts as a zombie already."""
    return not stat(pid)


def listeners_at(address: str) -> list[str]:
    """The inodes of the sockets that listen at an address."""
    port = int(address.rpartition(":")[2])
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return [row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
