"""The exit codes of `privyseal-server`, and what a failed start means for them."""

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


def start_error(error: Exception) -> StartError:
    """What an error of the start means; one that is not known is a fault of the program."""
    from privyseal_service.audit.errors import AuditUnavailableError  # noqa: PLC0415
    from privyseal_service.keyring import KeyringError, may_heal  # noqa: PLC0415 - the codes alone cost nothing
    from privyseal_service.oidc.sources import SourceError  # noqa: PLC0415
    from privyseal_service.ports import ListenError  # noqa: PLC0415
    from privyseal_service.quotas.limiter import LimitsError  # noqa: PLC0415
    from privyseal_service.tls import TlsError  # noqa: PLC0415

    match error:
        case StartError():
            return error
        case KeyringError():
            return StartError(str(error), AWAY if may_heal(error.cause) else REFUSED)
        case AuditUnavailableError() | TlsError() | ListenError() | SourceError() | LimitsError():
            return StartError(str(error), USAGE)
        case _:
            return StartError(f"a fault of the program itself, {type(error).__name__}: {error}", DEFECT)
