"""Runs a program whose audit folder is on a small disk, until standard input ends.

`python on_small_disk.py KIND FOLDER SIZE PROGRAM …`: as `tmpfs` it mounts one of SIZE bytes on FOLDER, in a mount
namespace of its own; where that is not allowed, and as `limit`, a limit on the size of files stands in for the full
disk. It writes the kind to FOLDER.kind, and makes room when FOLDER.room appears.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.audit.small_disk import mount_small_disk

FREE_BYTES = 300 * 1024
"""Room until room is made."""


def descendants(pid: int) -> list[int]:
    """A process and those that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def main() -> None:
    kind, folder, size, program = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    ballast = folder / "ballast"
    if kind == "tmpfs" and mount_small_disk(folder, size):
        ballast.write_bytes(bytes(size - FREE_BYTES))
    else:
        kind = "limit"
    folder.with_suffix(".kind").write_text(kind)
    process = subprocess.Popen(program)
    room = folder.with_suffix(".room")
    full = folder.with_suffix(".full")
    try:
        while process.poll() is None and not room.exists():
            if kind == "limit" and full.exists():
                for pid in descendants(process.pid):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
                full.unlink()
            time.sleep(0.02)
        if kind == "tmpfs":
            ballast.unlink(missing_ok=True)
        else:
            for pid in descendants(process.pid):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        room.with_suffix(".made").touch()
        sys.stdin.read()
    finally:
        process.terminate()
        process.wait(200)


if __name__ == "__main__":
    main()
