"""Load a PKCS#11 module with ctypes, and initialise it for threads.

python-pkcs11 calls `C_Initialize(NULL)`, which promises that the process has one thread. `ThreadSafeLib` passes
CKF_OS_LOCKING_OK instead (PKCS#11 base specification 2.40, 5.4). docs/decisions/0002-thread-safe-pkcs11.md gives the
reasons.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

from pkcs11._pkcs11 import lib as stock_lib
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import OperatorError
from privyseal_backends.pkcs11.errors import Meaning, meaning, meaning_of_code

_CKF_OS_LOCKING_OK = 0x02


_CKR_OK = 0x00


_CKR_CANT_LOCK = 0x0A


_CKU_USER = 1


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS: no mutex functions of our own, the flags, and the vendor's string."""

    _fields_: ClassVar = [
        ("mutex_functions", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_char_p),
    ]


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST: its version, then the first 20 of 68 functions."""

    _fields_: ClassVar = [
        ("version", ctypes.c_ubyte * 2),
        ("initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.POINTER(_InitializeArgs))),
        ("finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("others", ctypes.c_void_p * 16),
        ("login", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong)),
        ("logout", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong)),
    ]


@dataclass(frozen=True)
class Entry:
    """The module's function list as its own C_GetFunctionList gives it, and whether it gives a new one each time."""

    functions: _FunctionList
    private_lists: bool


def load_entry(path: str) -> Entry:
    """Load the module. Its symbols other than C_GetFunctionList are not used: some modules export no other."""
    try:
        get_list = ctypes.CDLL(path).C_GetFunctionList
    except OSError as error:
        raise OperatorError("module", f"cannot load {path}: {error}", "check module-path and its permissions") from None
    except AttributeError:
        raise OperatorError("module", f"{path} is not a PKCS#11 module", "check module-path") from None
    get_list.restype = ctypes.c_ulong
    first, second = ctypes.POINTER(_FunctionList)(), ctypes.POINTER(_FunctionList)()
    for pointer in (first, second):
        code = get_list(ctypes.byref(pointer))
        if code != _CKR_OK or not pointer:
            raise OperatorError("module", f"{path} gives no function list", "check module-path")
    same = ctypes.addressof(first.contents) == ctypes.addressof(second.contents)
    return Entry(first.contents, private_lists=not same)


class ThreadSafeLib(stock_lib):
    """A module as python-pkcs11 sees it, initialised for threads.

    The base class keeps a private "initialised" flag that a subclass cannot set, so its own finalize, reinitialize and
    unload would never call C_Finalize; all of them are replaced. The object lives as long as the process: slots, tokens
    and sessions copy its raw pointer.
    """

    def __init__(self, path: str, entry: Entry, reserved: str | None) -> None:
        self._entry = entry
        self._started = False
        self.reserved = reserved
        self.one_at_a_time = False
        # The base class calls unload() when the object goes, which at the end of a process may come after its methods.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        try:
            super().__init__(path)  # calls initialize(), then C_GetInfo through python-pkcs11's own list
        except PKCS11Error:
            if self._started:
                self.finalize()
            raise

    def __new__(cls, path: str, entry: Entry, reserved: str | None) -> ThreadSafeLib:  # noqa: ARG004
        """Give the base class, which loads the module here already, its one argument."""
        return super().__new__(cls, path)  # type: ignore[call-arg]  # its stub has no __new__

    def initialize(self) -> None:
        """Call C_Initialize. Raises `CodeError` or, for a module of p11-kit, `PKCS11Error`."""
        if self._entry.private_lists:
            # p11-kit's proxy and client hand out a list with a state of its own at each call, so the one inside this
            # object has to be used. They lock by themselves whatever they are told.
            super().initialize()
            self._started = True
            return
        arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        if self.reserved is not None:
            arguments.reserved = self.reserved.encode()
        code = self._entry.functions.initialize(ctypes.byref(arguments))
        if code == _CKR_CANT_LOCK:
            arguments.flags = 0
            code = self._entry.functions.initialize(ctypes.byref(arguments))
            self.one_at_a_time = True
        if code != _CKR_OK:
            raise CodeError(code)
        self._started = True

    def finalize(self) -> None:
        """Call C_Finalize. Nothing may be inside the module: several crash otherwise."""
        self._started = False
        if self._entry.private_lists:
            super().finalize()
            return
        code = self._entry.functions.finalize(None)
        if code != _CKR_OK:
            raise CodeError(code)

    @property
    def logs_in(self) -> bool:
        """Whether `log_in` and `log_out` work: not for a module of p11-kit, whose list here is not that in there."""
        return not self._entry.private_lists

    def log_in(self, session: int, pin: str) -> None:
        """Call C_Login for the user on a session, by its handle. Raises `CodeError`.

        `Token.open` with a PIN does so too, and leaves a session behind whenever the login fails.
        """
        secret = pin.encode()
        buffer = ctypes.create_string_buffer(secret, len(secret))
        try:
            code = self._entry.functions.login(session, _CKU_USER, buffer, len(secret))
        finally:
            ctypes.memset(buffer, 0, len(secret))
        if code != _CKR_OK:
            raise CodeError(code)

    def log_out(self, session: int) -> None:
        """Call C_Logout on a session, by its handle. Raises `CodeError`."""
        code = self._entry.functions.logout(session)
        if code != _CKR_OK:
            raise CodeError(code)

    def reinitialize(self) -> None:
        """Finalise and initialise."""
        self.finalize()
        self.initialize()

    def unload(self) -> None:
        """Do nothing: the module stays mapped as long as the process lives."""


class CodeError(Exception):
    """A return value that is not CKR_OK, of a function that is called here and not by python-pkcs11."""

    def __init__(self, code: int) -> None:
        super().__init__(meaning_of_code(code).name)
        self.code = code


def meaning_of(error: CodeError | PKCS11Error) -> Meaning:
    """What a return value means, whoever asked for it."""
    return meaning_of_code(error.code) if isinstance(error, CodeError) else meaning(error)
