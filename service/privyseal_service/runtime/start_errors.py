"""The exit codes of `privyseal-server`, and what a failed start means for them."""

from __future__ import annotations

from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, UNAVAILABLE, USAGE, StartError


def start_error(error: Exception) -> StartError:
    """What an error of the start means; one that is not known is a fault of the program."""
    from privyseal_service.api.tls import TlsError  # noqa: PLC0415
    from privyseal_service.audit.errors import AuditUnavailableError  # noqa: PLC0415
    from privyseal_service.identity.jwks_sources import SourceError  # noqa: PLC0415
    from privyseal_service.keys.keyring import KeyringError  # noqa: PLC0415 - the codes alone cost nothing
    from privyseal_service.keys.served_key import may_heal  # noqa: PLC0415 - the codes alone cost nothing
    from privyseal_service.limits.limiter import LimitsError  # noqa: PLC0415
    from privyseal_service.system.sockets import ListenError  # noqa: PLC0415

    match error:
        case StartError():
            return error
        case KeyringError():
            return StartError(str(error), UNAVAILABLE if may_heal(error.cause) else REFUSED)
        case AuditUnavailableError() | TlsError() | ListenError() | SourceError() | LimitsError():
            return StartError(str(error), USAGE)
        case _:
            return StartError(f"a fault of the program itself, {type(error).__name__}: {error}", INTERNAL_ERROR)
