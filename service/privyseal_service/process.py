"""The process around the service: no core dumps, private files, and the word to systemd that it is ready."""

from __future__ import annotations

import os
import resource
import socket
import sys

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Files of this process are private to its user, and its memory (PINs among it) is never written out."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - costs some milliseconds, and only here

        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot forbid core dumps")


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), where it asked to be told: `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        notifier.connect(address)
        notifier.sendall(state.encode())
