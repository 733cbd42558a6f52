"""What each refusal of Google's API means: which `BackendError` it is, and whether trying again may help."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import grpc
from google.api_core.exceptions import GoogleAPICallError

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    IntegrityError,
    OperatorError,
    UnavailableError,
)

_SAID_CHARACTERS = 300


class Verb(enum.Enum):
    """A method of the API that this backend calls; the value is the role that it needs."""

    GET_VERSION = "roles/cloudkms.viewer"
    GET_PUBLIC_KEY = "roles/cloudkms.publicKeyViewer"
    SIGN = "roles/cloudkms.signer"
    SIGN_RAW = "roles/cloudkms.signer and roles/cloudkms.expertRawPKCS1"
    DECRYPT = "roles/cloudkms.decrypter"


class Again(enum.Enum):
    """Whether to try again."""

    NEVER = enum.auto()
    A_FEW_TIMES = enum.auto()
    UNTIL_THE_DEADLINE = enum.auto()


@dataclass(frozen=True)
class Failure:
    """One failed call: the error that it is to the caller if it is the last, and whether it need be.

    `pause_s` is how long Google wants the caller to wait at least.
    """

    error: BackendError
    again: Again = Again.NEVER
    pause_s: float = 0.0


def integrity(what: str) -> IntegrityError:
    """An answer that is not true; `what` is a clause."""
    return IntegrityError(
        "answer",
        f"Cloud KMS gave an answer that does not hold: {what}",
        "it was dropped; if it goes on, look for what changes traffic between here and Google",
    )


def wrong_ciphertext() -> CallerError:
    """The one error of every ciphertext that does not decrypt: a caller must not learn why."""
    return CallerError(
        "ciphertext",
        "the ciphertext was not made for this key and scheme",
        "encrypt with the key's public key and the scheme that the key is enrolled for",
    )


def _said(error: GoogleAPICallError) -> str:
    """Google's own words on one line, for the errors that speak of names and permissions and never of input."""
    text = " ".join(str(error.message or "").split())
    return text if len(text) <= _SAID_CHARACTERS else text[:_SAID_CHARACTERS] + "…"


def _pause_s(error: GoogleAPICallError) -> float:
    """How long Google asks to wait (google.rpc.RetryInfo), in seconds."""
    pauses = [
        float(detail.retry_delay.ToTimedelta().total_seconds())
        for detail in error.details
        if detail.DESCRIPTOR.full_name == "google.rpc.RetryInfo"
    ]
    return max([0.0, *pauses])


def _plugin_failed(error: GoogleAPICallError) -> bool:
    """Whether no token could be had: gRPC reports that as UNAVAILABLE, with what the token's issuer said."""
    return "metadata from plugin failed" in str(error.message or "")


def _unavailable(error: GoogleAPICallError, pause_s: float) -> Failure:
    if _plugin_failed(error):
        broken = UnavailableError(
            "credentials",
            "no access token for Google could be had",
            "check that the credentials are valid and that their token endpoint can be reached",
        )
        return Failure(broken, Again.UNTIL_THE_DEADLINE, pause_s)
    away = UnavailableError(
        "network", "Cloud KMS does not answer", "it is tried again; check the network if it goes on"
    )
    return Failure(away, Again.UNTIL_THE_DEADLINE, pause_s)


def _busy(pause_s: float) -> Failure:
    error = BusyError(
        "quota",
        "Cloud KMS takes no more calls for now (RESOURCE_EXHAUSTED)",
        "ask for less at once, or have the project's Cloud KMS quota raised",
        retry_after_s=max(pause_s, 1.0),
    )
    return Failure(error, Again.UNTIL_THE_DEADLINE, pause_s)


def _invalid_argument(verb: Verb, error: GoogleAPICallError) -> Failure:
    words = str(error.message or "").lower()
    if "checksum" in words or "crc32c" in words:
        return Failure(integrity("it says that the request was changed on its way"), Again.A_FEW_TIMES)
    if verb is Verb.DECRYPT:
        return Failure(wrong_ciphertext())
    refused = CallerError("request", "Cloud KMS does not take this input for this key", "check the key's algorithm")
    return Failure(refused)


def _precondition(verb: Verb, error: GoogleAPICallError) -> Failure:
    refused = OperatorError(
        "key",
        f"Cloud KMS says that the key version is not fit for use now ({_said(error)})",
        "see that the key version is ENABLED and that its key's purpose fits"
        if verb is not Verb.DECRYPT
        else "see that the key version is ENABLED and was made for decryption",
    )
    return Failure(refused)


def _operator(verb: Verb, error: GoogleAPICallError) -> Failure | None:
    match error.grpc_status_code:
        case grpc.StatusCode.PERMISSION_DENIED:
            part, message = "permission", f"Google refused the call ({_said(error)})"
            remedy = f"grant the caller {verb.value} on the key"
        case grpc.StatusCode.UNAUTHENTICATED:
            part, message = "credentials", "Google does not accept the credentials"
            remedy = "check the credentials file, or the application default credentials"
        case grpc.StatusCode.NOT_FOUND:
            part, message = "key", f"Google does not have the key version ({_said(error)})"
            remedy = "correct the URI"
        case grpc.StatusCode.UNIMPLEMENTED:
            part, message = "endpoint", "the endpoint is not Cloud KMS, or does not know the call"
            remedy = "correct the endpoint"
        case _:
            return None
    return Failure(OperatorError(part, message, remedy))


def _late(pause_s: float) -> Failure:
    error = DeadlineError("deadline", "Cloud KMS did not answer in time", "allow the call more time")
    return Failure(error, Again.UNTIL_THE_DEADLINE, pause_s)


def failure(verb: Verb, error: GoogleAPICallError) -> Failure:
    """What `error`, met by `verb`, means."""
    pause_s = _pause_s(error)
    match error.grpc_status_code:
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            met = _busy(pause_s)
        case grpc.StatusCode.INVALID_ARGUMENT:
            met = _invalid_argument(verb, error)
        case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.OUT_OF_RANGE:
            met = _precondition(verb, error)
        case grpc.StatusCode.DATA_LOSS:
            met = Failure(integrity("it says that data was lost"), Again.A_FEW_TIMES)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            met = _late(pause_s)
        case _:
            # What is left: UNAVAILABLE, INTERNAL, ABORTED, UNKNOWN (a proxy's 5xx), CANCELLED (a server that stops).
            met = _operator(verb, error) or _unavailable(error, pause_s)
    return met
