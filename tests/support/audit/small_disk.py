"""Fills a small file system with audit records until it is full, makes room, and prints what was answered.

`python small_disk.py FOLDER SIZE KIND`: `tmpfs` mounts one of SIZE bytes on FOLDER, in a mount namespace of its own;
where that is not allowed, and as KIND `limit`, a limit on the size of files stands in for the full disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from privyseal.transparency.merkle import leaf_hash
from privyseal_service.audit.errors import AuditUnavailableError
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.layout import Layout, segment_numbers, segment_path
from tests.support.audit.helpers import SOURCE, decision

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def mount_small_disk(folder: Path, size: int) -> bool:
    """Mount a tmpfs that this process alone sees; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=700".encode()) == 0


class SmallDisk:
    """A disk that is nearly full of something else, until `make_room`."""

    def __init__(self, folder: Path, size: int, kind: str) -> None:
        self.kind = "tmpfs" if kind == "tmpfs" and mount_small_disk(folder, size) else "limit"
        self.ballast = folder / "ballast"
        if self.kind == "tmpfs":
            self.ballast.write_bytes(bytes(size // 2))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))

    def stay_full(self) -> None:
        """The limit holds for each file, so that a new one would have room: not with this."""
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    def make_room(self) -> None:
        if self.kind == "tmpfs":
            self.ballast.unlink()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    disk = SmallDisk(folder, size, sys.argv[3])
    heard = []
    journal = Journal(folder / "audit", SOURCE, on_change=lambda failure: heard.append(str(failure or "safe")))
    answered = []
    number = 0
    while journal.failure is None:
        number += 1
        try:
            answered += journal.append([decision(number)])
        except AuditUnavailableError:
            disk.stay_full()
    refused = 0
    for _ in range(20):
        try:
            journal.append([decision(0)])
        except AuditUnavailableError:
            refused += 1
        time.sleep(0.02)
    before = len(answered)
    disk.make_room()
    while journal.failure is not None:
        time.sleep(0.01)
    answered += journal.append([decision(-1)])
    journal.close()

    lines = set()
    worker = Layout(folder / "audit").worker(SOURCE.worker)
    for segment in segment_numbers(worker):
        lines |= {leaf_hash(line) for line in segment_path(worker, segment).read_bytes().split(b"\n")}
    print(
        json.dumps(
            {
                "kind": disk.kind,
                "before": before,
                "refused": refused,
                "heard": heard,
                "missing": sum(one.leaf_hash not in lines for one in answered),
                "answered": len(answered),
            }
        )
    )


if __name__ == "__main__":
    main()
