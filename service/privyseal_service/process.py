"""The process around every command: private files, and no core dumps with PINs in them."""

from __future__ import annotations

import os
import resource
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
