"""Which exit code a failed start has."""

from __future__ import annotations

from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, UNAVAILABLE, USAGE, StartError


def start_error(error: Exception) -> StartError:
    """Return the error as a StartError; one of no known kind is an internal error."""
    from privyseal_service.api.tls import TlsError  # noqa: PLC0415 - only a failed start needs these
    from privyseal_service.audit.errors import AuditUnavailableError  # noqa: PLC0415
    from privyseal_service.identity.jwks_sources import SourceError  # noqa: PLC0415
    from privyseal_service.keys.keyring import KeyringError  # noqa: PLC0415
    from privyseal_service.keys.served_key import may_heal  # noqa: PLC0415
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
            return StartError(f"internal error, {type(error).__name__}: {error}", INTERNAL_ERROR)
