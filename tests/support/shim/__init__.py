"""A PKCS#11 module that stands in front of a real one and fails, waits, hangs or lies on cue.

    shim = FaultShim.build(tmp_path, token.module_path)
    uri = token.uri("demo", module_path=shim.path)      # open keys through it, here or in another process
    shim.fail("C_Sign", Ckr.DEVICE_ERROR, times=1)      # the next signature fails
    shim.hang("C_Sign"); ...; shim.clear()              # signatures hang until cleared
    assert shim.calls("C_Sign") == 0

It is driven through a file that both sides map, so a test can break the module of a running server. Rules act from the
moment that they are made, the first one that fits counts, and each call of a function is one call: python-pkcs11 calls
C_Sign and C_Decrypt twice, first to ask for the length, and `final` (the default for these two) leaves that out.

It is built once in a test run (see `tests.support.compiling`). Each `FaultShim` has a file of its own, since a process
has one state for each module file.
"""

from __future__ import annotations

import enum
import mmap
import os
import shutil
import struct
from pathlib import Path

from tests.support.compiling import compiled

_SOURCE = Path(__file__).with_name("shim.c")

_NAMES = (
    "C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList "
    "C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions "
    "C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject "
    "C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects "
    "C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate "
    "C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate "
    "C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal "
    "C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate "
    "C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom "
    "C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent"
)
FUNCTIONS = _NAMES.split()
"""The functions of PKCS#11 v2.40 in the order of CK_FUNCTION_LIST."""

_RULE = struct.Struct("<IIQQqqIIQQ")
_RULES = 16
_MODULE, _PRIVATE_LISTS, _LISTS, _TOKEN_FLAGS, _INIT_FLAGS = 0, 1024, 1028, 1032, 1040
_RESERVED, _INSIDE, _MOST_INSIDE, _CALLS = 1048, 2072, 2080, 2088
_RULES_AT = _CALLS + 8 * len(FUNCTIONS)
_PROCESS = struct.Struct("<Qq")
_PROCESSES = 256
_PROCESSES_AT = _RULES_AT + _RULES * _RULE.size
_SIZE = _PROCESSES_AT + _PROCESSES * _PROCESS.size
_WITH_OUTPUT = frozenset({"C_Sign", "C_Decrypt"})


class Ckr(enum.IntEnum):
    """Return values that tests ask for most; any number will do."""

    HOST_MEMORY = 0x02
    SLOT_ID_INVALID = 0x03
    GENERAL_ERROR = 0x05
    FUNCTION_FAILED = 0x06
    ARGUMENTS_BAD = 0x07
    CANT_LOCK = 0x0A
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    ENCRYPTED_DATA_INVALID = 0x40
    KEY_HANDLE_INVALID = 0x60
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    PIN_INCORRECT = 0xA0
    PIN_LOCKED = 0xA4
    SESSION_CLOSED = 0xB0
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    TOKEN_NOT_PRESENT = 0xE0
    USER_NOT_LOGGED_IN = 0x101
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


class _Action(enum.IntEnum):
    ANSWER = 1
    LIE = 2
    DELAY = 3
    HANG = 4
    CORRUPT = 5


class FaultShim:
    """One shim file and its control file. `path` is what goes into a key's module-path."""

    def __init__(self, path: Path, control: mmap.mmap) -> None:
        self.path = path
        self._map = control
        self._next = 0

    @classmethod
    def build(cls, folder: Path, module_path: Path) -> FaultShim:
        """Put a shim before `module_path` into `folder`."""
        number = len(list(folder.glob("shim-*.so")))
        path = folder / f"shim-{number}.so"
        shutil.copyfile(compiled(_SOURCE, "-fvisibility=hidden", "-Wl,-Bsymbolic"), path)
        control = path.with_name(path.name + ".control")
        control.write_bytes(os.fsencode(module_path).ljust(_SIZE, b"\0"))
        with control.open("r+b") as file:
            return cls(path, mmap.mmap(file.fileno(), _SIZE))

    def fail(
        self,
        function: str,
        code: int,
        *,
        times: int = -1,
        after: int = 0,
        lie: bool = False,
        final: bool | None = None,
        first: int | None = None,
    ) -> None:
        """Answer `code` to `function` for `times` calls (-1: for ever) after `after` good ones.

        The real function is not called, which leaves an operation that it would have ended active, as some tokens do;
        with `lie` it is called first. `first` restricts it to calls with that first argument (a slot or a session).
        """
        action = _Action.LIE if lie else _Action.ANSWER
        self._rule(action, function, code=code, times=times, after=after, final=final, first=first)

    def delay(self, function: str, seconds: float, *, times: int = -1, after: int = 0) -> None:
        """Wait before each call of `function`."""
        self._rule(_Action.DELAY, function, delay_us=int(seconds * 1e6), times=times, after=after)

    def hang(self, function: str, *, times: int = -1, after: int = 0) -> None:
        """Hang in `function` until `clear`; then the call goes on to the real module."""
        self._rule(_Action.HANG, function, times=times, after=after)

    def corrupt(self, function: str, *, times: int = -1, after: int = 0) -> None:
        """Flip a bit of what C_Sign or C_Decrypt gives."""
        self._rule(_Action.CORRUPT, function, times=times, after=after)

    def clear(self) -> None:
        """Take every rule away; what hangs goes on."""
        self._map[_RULES_AT : _RULES_AT + _RULES * _RULE.size] = bytes(_RULES * _RULE.size)
        self._next = 0

    def calls(self, function: str) -> int:
        """How often `function` was called, queries of a length counted in."""
        return self._number(_CALLS + 8 * FUNCTIONS.index(function))

    def give_private_lists(self) -> None:
        """From now on give a new function list with a state of its own at each C_GetFunctionList, as p11-kit does."""
        struct.pack_into("<I", self._map, _PRIVATE_LISTS, 1)

    def set_token_flags(self, flags: int) -> None:
        """Set these bits in every CK_TOKEN_INFO; 0 sets none."""
        struct.pack_into("<Q", self._map, _TOKEN_FLAGS, flags)

    @property
    def sessions(self) -> dict[int, int]:
        """How many sessions each living process has open, by its id."""
        table = self._map[_PROCESSES_AT : _PROCESSES_AT + _PROCESSES * _PROCESS.size]
        return {pid: open_ for pid, open_ in _PROCESS.iter_unpack(table) if pid and Path(f"/proc/{pid}").exists()}

    @property
    def inside(self) -> int:
        """How many calls are inside now."""
        return self._number(_INSIDE)

    @property
    def most_inside(self) -> int:
        """How many calls were inside at once at most."""
        return self._number(_MOST_INSIDE)

    @property
    def initialize_flags(self) -> int | None:
        """The flags of the last C_Initialize; None when its argument was NULL."""
        flags = self._number(_INIT_FLAGS)
        return None if flags == 2**64 - 1 else flags

    @property
    def reserved(self) -> str:
        """pReserved of the last C_Initialize."""
        return self._map[_RESERVED : _RESERVED + 1024].rstrip(b"\0").decode()

    def _number(self, offset: int) -> int:
        (number,) = struct.unpack_from("<Q", self._map, offset)
        return int(number)

    def _rule(
        self,
        action: _Action,
        function: str,
        *,
        code: int = 0,
        delay_us: int = 0,
        times: int = -1,
        after: int = 0,
        final: bool | None = None,
        first: int | None = None,
    ) -> None:
        if self._next == _RULES:
            raise ValueError(f"no more than {_RULES} rules at a time")
        offset = _RULES_AT + self._next * _RULE.size
        self._next += 1
        only_final = function in _WITH_OUTPUT if final is None else final
        rule = _RULE.pack(
            0, FUNCTIONS.index(function), code, delay_us, after, times, only_final, first is not None, first or 0, 0
        )
        self._map[offset : offset + _RULE.size] = rule
        struct.pack_into("<I", self._map, offset, action)  # last of all: the rule acts from here on
