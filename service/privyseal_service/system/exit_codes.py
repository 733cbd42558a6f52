"""Exit codes of privyseal-server, and the error that carries one."""

from __future__ import annotations

REFUSED = 1
"""Refused, not verified, or an unfit input; a key that cannot serve as configured."""

USAGE = 2
"""Usage, a missing file, a bad configuration, or an address that is not available."""

UNAVAILABLE = 3
"""A key store, or the running service, is unavailable."""

INTERNAL_ERROR = 70
"""`serve` ended, or did not start, because of an internal error or of the machine under it (EX_SOFTWARE)."""

RESTART_REQUIRED = 75
"""A key store is lost to this process and needs a new process (EX_TEMPFAIL of sysexits.h): start it again."""


class StartError(Exception):
    """The service cannot start. The text is one sentence; `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
