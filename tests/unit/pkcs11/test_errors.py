"""Each return value has a class, and each class an error of the interface."""

from __future__ import annotations

import pkcs11.exceptions
import pytest
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import BackendError, BusyError, CallerError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.errors import Fault, backend_error, classify, meaning, meaning_of_code
from privyseal_backends.pkcs11.module_registry import MODULES
from tests.support.shim import FaultShim
from tests.support.softhsm import SoftHsmToken

NAMED = [
    ("DataLenRange", "CKR_DATA_LEN_RANGE", Fault.CALLER),
    ("DataInvalid", "CKR_DATA_INVALID", Fault.CALLER),
    ("KeyTypeInconsistent", "CKR_KEY_TYPE_INCONSISTENT", Fault.CALLER),
    ("KeySizeRange", "CKR_KEY_SIZE_RANGE", Fault.CALLER),
    ("MechanismInvalid", "CKR_MECHANISM_INVALID", Fault.CALLER),
    ("MechanismParamInvalid", "CKR_MECHANISM_PARAM_INVALID", Fault.CALLER),
    ("ArgumentsBad", "CKR_ARGUMENTS_BAD", Fault.CALLER),
    ("EncryptedDataInvalid", "CKR_ENCRYPTED_DATA_INVALID", Fault.CALLER),
    ("EncryptedDataLenRange", "CKR_ENCRYPTED_DATA_LEN_RANGE", Fault.CALLER),
    ("TemplateInconsistent", "CKR_TEMPLATE_INCONSISTENT", Fault.CALLER),
    ("SessionHandleInvalid", "CKR_SESSION_HANDLE_INVALID", Fault.STALE_HANDLE),
    ("SessionClosed", "CKR_SESSION_CLOSED", Fault.STALE_HANDLE),
    ("ObjectHandleInvalid", "CKR_OBJECT_HANDLE_INVALID", Fault.STALE_HANDLE),
    ("KeyHandleInvalid", "CKR_KEY_HANDLE_INVALID", Fault.STALE_HANDLE),
    ("OperationActive", "CKR_OPERATION_ACTIVE", Fault.STALE_HANDLE),
    ("OperationNotInitialized", "CKR_OPERATION_NOT_INITIALIZED", Fault.STALE_HANDLE),
    ("UserNotLoggedIn", "CKR_USER_NOT_LOGGED_IN", Fault.LOGIN_LOST),
    ("DeviceRemoved", "CKR_DEVICE_REMOVED", Fault.TOKEN_LOST),
    ("TokenNotPresent", "CKR_TOKEN_NOT_PRESENT", Fault.TOKEN_LOST),
    ("TokenNotRecognised", "CKR_TOKEN_NOT_RECOGNIZED", Fault.TOKEN_LOST),
    ("DeviceError", "CKR_DEVICE_ERROR", Fault.TOKEN_LOST),
    ("SlotIDInvalid", "CKR_SLOT_ID_INVALID", Fault.TOKEN_LOST),
    ("GeneralError", "CKR_GENERAL_ERROR", Fault.DOUBTFUL),
    ("FunctionFailed", "CKR_FUNCTION_FAILED", Fault.BUSY),
    ("SessionCount", "CKR_SESSION_COUNT", Fault.BUSY),
    ("HostMemory", "CKR_HOST_MEMORY", Fault.BUSY),
    ("DeviceMemory", "CKR_DEVICE_MEMORY", Fault.BUSY),
    ("FunctionCancelled", "CKR_FUNCTION_CANCELED", Fault.BUSY),
    ("PinIncorrect", "CKR_PIN_INCORRECT", Fault.OPERATOR),
    ("PinLocked", "CKR_PIN_LOCKED", Fault.OPERATOR),
    ("PinExpired", "CKR_PIN_EXPIRED", Fault.OPERATOR),
    ("PinInvalid", "CKR_PIN_INVALID", Fault.OPERATOR),
    ("PinLenRange", "CKR_PIN_LEN_RANGE", Fault.OPERATOR),
    ("UserPinNotInitialized", "CKR_USER_PIN_NOT_INITIALIZED", Fault.OPERATOR),
    ("UserAlreadyLoggedIn", "CKR_USER_ALREADY_LOGGED_IN", Fault.OPERATOR),
    ("TokenWriteProtected", "CKR_TOKEN_WRITE_PROTECTED", Fault.OPERATOR),
    ("SessionReadOnly", "CKR_SESSION_READ_ONLY", Fault.OPERATOR),
]

BARE = [
    (
        "Initialisation error (not initialized). Should never see this.",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
        Fault.TOKEN_LOST,
    ),
    (
        "Initialisation error (already initialized). Should never see this.",
        "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        Fault.OPERATOR,
    ),
    ("User type invalid. Should never see this.", "CKR_USER_TYPE_INVALID", Fault.OPERATOR),
    ("Unmapped error code 0x68", "CKR_KEY_FUNCTION_NOT_PERMITTED", Fault.CALLER),
    ("Unmapped error code 0xa", "CKR_CANT_LOCK", Fault.OPERATOR),
    ("Unmapped error code 0x1a0", "CKR_MUTEX_BAD", Fault.TOKEN_LOST),
    ("Unmapped error code 0x80000001", "CKR 0x80000001", Fault.DOUBTFUL),
    ("Something new", "PKCS11Error", Fault.DOUBTFUL),
]

ERRORS: dict[Fault, type[BackendError]] = {
    Fault.CALLER: CallerError,
    Fault.STALE_HANDLE: UnavailableError,
    Fault.LOGIN_LOST: UnavailableError,
    Fault.TOKEN_LOST: UnavailableError,
    Fault.DOUBTFUL: UnavailableError,
    Fault.BUSY: BusyError,
    Fault.OPERATOR: OperatorError,
}


@pytest.mark.parametrize(("name", "ckr", "fault"), NAMED)
def test_an_exception_of_its_own(name: str, ckr: str, fault: Fault) -> None:
    error = getattr(pkcs11.exceptions, name)()
    assert (meaning(error).name, classify(error)) == (ckr, fault)


@pytest.mark.parametrize(("text", "ckr", "fault"), BARE)
def test_a_bare_exception_is_known_by_its_text(text: str, ckr: str, fault: Fault) -> None:
    error = PKCS11Error(text)
    assert (meaning(error).name, classify(error)) == (ckr, fault)


@pytest.mark.parametrize("fault", list(Fault))
def test_each_class_has_its_error(fault: Fault) -> None:
    code = next(code for code in range(0x210) if meaning_of_code(code).fault is fault)
    error = backend_error(meaning_of_code(code), "to sign")
    assert type(error) is ERRORS[fault]
    assert error.part in ("module", "token", "PIN", "object", "attribute", "mechanism")
    assert "CKR" in error.message
    assert "to sign" in error.message


def test_each_code_means_the_same_when_it_comes_through_python_pkcs11(token: SoftHsmToken, shim: FaultShim) -> None:
    """Its classes and its texts are no contract: this fails when a new version changes them."""
    module = MODULES.acquire(str(shim.path), None)
    codes = [code for code in range(1, 0x210) if not meaning_of_code(code).name.startswith("CKR 0x")]
    read: dict[int, str] = {}
    with module.call():
        session = next(t for t in module.lib.get_tokens() if t.label == token.label).open()
        for code in (*codes, 0x80000001):
            shim.fail("C_GenerateRandom", code)
            with pytest.raises(PKCS11Error) as caught:
                session.generate_random(64)
            read[code] = meaning(caught.value).name
            shim.clear()
    assert module.release(10)
    assert len(codes) > 50
    assert read == {code: meaning_of_code(code).name for code in (*codes, 0x80000001)}
