"""What a PKCS#11 return value means: its class, and the error of the interface that a caller gets for it.

Return values and their meaning: PKCS#11 base specification 2.40, 5.1. What heals each class: see `Fault`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pkcs11.exceptions as exc
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import BackendError, BusyError, CallerError, OperatorError, UnavailableError


class Fault(enum.Enum):
    """A class of failures, by what mends them."""

    CALLER = "caller"
    """Asking again gives the same answer: never retried."""
    STALE_HANDLE = "stale handle"
    """The session or the key's handle is gone: a new session, the key found again, once. Twice in a row is a lost
    token."""
    LOGIN_LOST = "login lost"
    """The token has logged this process out: log in again, find every key again."""
    TOKEN_LOST = "token lost"  # noqa: S105 - not that kind of token
    """The token or the module has lost its state: only finalising and initialising the module mends that."""
    DOUBTFUL = "doubtful"
    """One failed call, for a reason that the module does not tell; many in a row are a lost token."""
    BUSY = "busy"
    """Too much at once: wait, and keep the session."""
    OPERATOR = "operator"
    """A person has to act: never retried, since each try may cost."""


@dataclass(frozen=True)
class Meaning:
    """One return value: its name, its class, and the part (see `BackendError`) that failed."""

    name: str
    fault: Fault
    part: str
    remedy: str = ""


_LOCKED = "have the token's security officer set the PIN again"
_REMEDY = "read the module's own log"

_BY_CODE: Mapping[int, Meaning] = MappingProxyType(
    {
        0x02: Meaning("CKR_HOST_MEMORY", Fault.BUSY, "module"),
        0x03: Meaning("CKR_SLOT_ID_INVALID", Fault.TOKEN_LOST, "token"),
        0x05: Meaning("CKR_GENERAL_ERROR", Fault.DOUBTFUL, "token", _REMEDY),
        0x06: Meaning("CKR_FUNCTION_FAILED", Fault.BUSY, "token"),
        0x07: Meaning("CKR_ARGUMENTS_BAD", Fault.CALLER, "mechanism"),
        0x09: Meaning("CKR_NEED_TO_CREATE_THREADS", Fault.OPERATOR, "module"),
        0x0A: Meaning("CKR_CANT_LOCK", Fault.OPERATOR, "module"),
        0x10: Meaning("CKR_ATTRIBUTE_READ_ONLY", Fault.CALLER, "attribute"),
        0x11: Meaning("CKR_ATTRIBUTE_SENSITIVE", Fault.CALLER, "attribute"),
        0x12: Meaning("CKR_ATTRIBUTE_TYPE_INVALID", Fault.CALLER, "attribute"),
        0x13: Meaning("CKR_ATTRIBUTE_VALUE_INVALID", Fault.CALLER, "attribute"),
        0x1B: Meaning("CKR_ACTION_PROHIBITED", Fault.CALLER, "attribute"),
        0x20: Meaning("CKR_DATA_INVALID", Fault.CALLER, "mechanism"),
        0x21: Meaning("CKR_DATA_LEN_RANGE", Fault.CALLER, "mechanism"),
        0x30: Meaning("CKR_DEVICE_ERROR", Fault.TOKEN_LOST, "token"),
        0x31: Meaning("CKR_DEVICE_MEMORY", Fault.BUSY, "token"),
        0x32: Meaning("CKR_DEVICE_REMOVED", Fault.TOKEN_LOST, "token"),
        0x40: Meaning("CKR_ENCRYPTED_DATA_INVALID", Fault.CALLER, "mechanism"),
        0x41: Meaning("CKR_ENCRYPTED_DATA_LEN_RANGE", Fault.CALLER, "mechanism"),
        0x50: Meaning("CKR_FUNCTION_CANCELED", Fault.BUSY, "token"),
        0x54: Meaning("CKR_FUNCTION_NOT_SUPPORTED", Fault.CALLER, "mechanism"),
        0x60: Meaning("CKR_KEY_HANDLE_INVALID", Fault.STALE_HANDLE, "object"),
        0x62: Meaning("CKR_KEY_SIZE_RANGE", Fault.CALLER, "mechanism"),
        0x63: Meaning("CKR_KEY_TYPE_INCONSISTENT", Fault.CALLER, "mechanism"),
        0x68: Meaning("CKR_KEY_FUNCTION_NOT_PERMITTED", Fault.CALLER, "attribute"),
        0x70: Meaning("CKR_MECHANISM_INVALID", Fault.CALLER, "mechanism"),
        0x71: Meaning("CKR_MECHANISM_PARAM_INVALID", Fault.CALLER, "mechanism"),
        0x82: Meaning("CKR_OBJECT_HANDLE_INVALID", Fault.STALE_HANDLE, "object"),
        0x90: Meaning("CKR_OPERATION_ACTIVE", Fault.STALE_HANDLE, "token"),
        0x91: Meaning("CKR_OPERATION_NOT_INITIALIZED", Fault.STALE_HANDLE, "token"),
        0xA0: Meaning("CKR_PIN_INCORRECT", Fault.OPERATOR, "PIN", "correct the PIN and start again"),
        0xA1: Meaning("CKR_PIN_INVALID", Fault.OPERATOR, "PIN", "correct the PIN and start again"),
        0xA2: Meaning("CKR_PIN_LEN_RANGE", Fault.OPERATOR, "PIN", "correct the PIN and start again"),
        0xA3: Meaning("CKR_PIN_EXPIRED", Fault.OPERATOR, "PIN", "set a new PIN with the token's own tool"),
        0xA4: Meaning("CKR_PIN_LOCKED", Fault.OPERATOR, "PIN", _LOCKED),
        0xB0: Meaning("CKR_SESSION_CLOSED", Fault.STALE_HANDLE, "token"),
        0xB1: Meaning("CKR_SESSION_COUNT", Fault.BUSY, "token", "lower `sessions`, or stop who else uses the token"),
        0xB3: Meaning("CKR_SESSION_HANDLE_INVALID", Fault.STALE_HANDLE, "token"),
        0xB5: Meaning("CKR_SESSION_READ_ONLY", Fault.OPERATOR, "token", "set read_write = true in [stores.pkcs11]"),
        0xB7: Meaning("CKR_SESSION_READ_ONLY_EXISTS", Fault.OPERATOR, "token"),
        0xB8: Meaning("CKR_SESSION_READ_WRITE_SO_EXISTS", Fault.OPERATOR, "token"),
        0xD0: Meaning("CKR_TEMPLATE_INCOMPLETE", Fault.CALLER, "attribute"),
        0xD1: Meaning("CKR_TEMPLATE_INCONSISTENT", Fault.CALLER, "attribute"),
        0xE0: Meaning("CKR_TOKEN_NOT_PRESENT", Fault.TOKEN_LOST, "token"),
        0xE1: Meaning("CKR_TOKEN_NOT_RECOGNIZED", Fault.TOKEN_LOST, "token"),
        0xE2: Meaning("CKR_TOKEN_WRITE_PROTECTED", Fault.OPERATOR, "token", "lift the token's write protection"),
        0x100: Meaning("CKR_USER_ALREADY_LOGGED_IN", Fault.OPERATOR, "PIN", "let only one store use the token"),
        0x101: Meaning("CKR_USER_NOT_LOGGED_IN", Fault.LOGIN_LOST, "token"),
        0x102: Meaning("CKR_USER_PIN_NOT_INITIALIZED", Fault.OPERATOR, "PIN", "set a user PIN with the token's tool"),
        0x103: Meaning("CKR_USER_TYPE_INVALID", Fault.OPERATOR, "PIN"),
        0x104: Meaning("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Fault.OPERATOR, "PIN"),
        0x105: Meaning("CKR_USER_TOO_MANY_TYPES", Fault.OPERATOR, "PIN"),
        0x121: Meaning("CKR_RANDOM_NO_RNG", Fault.CALLER, "mechanism"),
        0x190: Meaning("CKR_CRYPTOKI_NOT_INITIALIZED", Fault.TOKEN_LOST, "module"),
        0x191: Meaning("CKR_CRYPTOKI_ALREADY_INITIALIZED", Fault.OPERATOR, "module"),
        0x1A0: Meaning("CKR_MUTEX_BAD", Fault.TOKEN_LOST, "module"),
        0x1A1: Meaning("CKR_MUTEX_NOT_LOCKED", Fault.TOKEN_LOST, "module"),
        0x200: Meaning("CKR_FUNCTION_REJECTED", Fault.BUSY, "token"),
    }
)

_CODE_OF: Mapping[type[PKCS11Error], int] = MappingProxyType(
    {
        exc.HostMemory: 0x02,
        exc.SlotIDInvalid: 0x03,
        exc.GeneralError: 0x05,
        exc.FunctionFailed: 0x06,
        exc.ArgumentsBad: 0x07,
        exc.AttributeReadOnly: 0x10,
        exc.AttributeSensitive: 0x11,
        exc.AttributeTypeInvalid: 0x12,
        exc.AttributeValueInvalid: 0x13,
        exc.DataInvalid: 0x20,
        exc.DataLenRange: 0x21,
        exc.DeviceError: 0x30,
        exc.DeviceMemory: 0x31,
        exc.DeviceRemoved: 0x32,
        exc.EncryptedDataInvalid: 0x40,
        exc.EncryptedDataLenRange: 0x41,
        exc.FunctionCancelled: 0x50,
        exc.FunctionNotSupported: 0x54,
        exc.KeyHandleInvalid: 0x60,
        exc.KeySizeRange: 0x62,
        exc.KeyTypeInconsistent: 0x63,
        exc.MechanismInvalid: 0x70,
        exc.MechanismParamInvalid: 0x71,
        exc.ObjectHandleInvalid: 0x82,
        exc.OperationActive: 0x90,
        exc.OperationNotInitialized: 0x91,
        exc.PinIncorrect: 0xA0,
        exc.PinInvalid: 0xA1,
        exc.PinLenRange: 0xA2,
        exc.PinExpired: 0xA3,
        exc.PinLocked: 0xA4,
        exc.SessionClosed: 0xB0,
        exc.SessionCount: 0xB1,
        exc.SessionHandleInvalid: 0xB3,
        exc.SessionReadOnly: 0xB5,
        exc.SessionReadOnlyExists: 0xB7,
        exc.SessionReadWriteSOExists: 0xB8,
        exc.TemplateIncomplete: 0xD0,
        exc.TemplateInconsistent: 0xD1,
        exc.TokenNotPresent: 0xE0,
        exc.TokenNotRecognised: 0xE1,
        exc.TokenWriteProtected: 0xE2,
        exc.UserAlreadyLoggedIn: 0x100,
        exc.UserNotLoggedIn: 0x101,
        exc.UserPinNotInitialized: 0x102,
        exc.AnotherUserAlreadyLoggedIn: 0x104,
        exc.UserTooManyTypes: 0x105,
        exc.RandomNoRNG: 0x121,
        exc.FunctionRejected: 0x200,
    }
)
"""python-pkcs11's exceptions, which carry nothing but their type."""

_IN_TEXT = (
    (re.compile(r"not initialized"), 0x190),
    (re.compile(r"already initialized"), 0x191),
    (re.compile(r"User type invalid"), 0x103),
)
_UNMAPPED = re.compile(r"Unmapped error code (0x[0-9a-f]+)")


def meaning_of_code(code: int) -> Meaning:
    """What a return value means; one that is not known here is doubtful."""
    return _BY_CODE.get(code) or Meaning(f"CKR 0x{code:x}", Fault.DOUBTFUL, "token", _REMEDY)


def meaning(error: PKCS11Error) -> Meaning:
    """What an exception of python-pkcs11 means. A few return values have no class of their own there and come as a bare
    `PKCS11Error`, to be known only by its text."""
    code = _CODE_OF.get(type(error))
    if code is not None:
        return meaning_of_code(code)
    text = str(error)
    unmapped = _UNMAPPED.search(text)
    if unmapped:
        return meaning_of_code(int(unmapped[1], 16))
    for pattern, known in _IN_TEXT:
        if pattern.search(text):
            return meaning_of_code(known)
    return Meaning(type(error).__name__, Fault.DOUBTFUL, "token", _REMEDY)


def classify(error: PKCS11Error) -> Fault:
    """The class of an exception of python-pkcs11."""
    return meaning(error).fault


def backend_error(error: PKCS11Error | Meaning, doing: str) -> BackendError:
    """The interface's error for a failure while `doing` (as "to sign"), worded for a person."""
    what = error if isinstance(error, Meaning) else meaning(error)
    message = f"the token answered {what.name} when asked {doing}"
    if what.part == "module":
        message = f"the module answered {what.name} when asked {doing}"
    if what.fault is Fault.CALLER:
        return CallerError(what.part, message, what.remedy)
    if what.fault is Fault.BUSY:
        return BusyError(what.part, message, what.remedy)
    if what.fault is Fault.OPERATOR:
        return OperatorError(what.part, message, what.remedy)
    return UnavailableError(what.part, message, what.remedy)
