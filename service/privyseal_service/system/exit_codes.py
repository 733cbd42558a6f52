"""Exit codes of privyseal-server, and the error that carries one."""

from __future__ import annotations

REFUSED = 1
"""Refused, not verified, or an unfit input; a key that cannot serve as configured."""


USAGE = 2
"""Usage, a missing file, a bad configuration, or an address that cannot be had."""


AWAY = 3
"""A key store that is away."""


DEFECT = 70
"""`serve` ended, or did not start, by a fault of the program, or of the machine under it (EX_SOFTWARE)."""


LOST = 75
"""A key store that is lost to this process and needs a new one (EX_TEMPFAIL of sysexits.h): start it again."""


class StartError(Exception):
    """The service cannot start. The text is one sentence; `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
