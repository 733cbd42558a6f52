"""PKCS#11 by ctypes alone, in a process of its own: what the tests of other makers' modules need beside the backend.

    python raw.py '{"do": "slots", "module": PATH, …}'

prints JSON. Orders: `slots` (each slot's token label and flags), `initialize` (C_InitToken, then the user's PIN), and
`public_keys` (modulus and exponent of every public object of a token, by label). `reserved` is C_Initialize's string.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_ULONG = ctypes.c_ulong
_OK, _SO, _USER = 0, 0, 1
_RW_SESSION = 6
_CLASS, _LABEL, _MODULUS, _EXPONENT, _PUBLIC_KEY = 0x000, 0x003, 0x120, 0x122, 2

# Their places in CK_FUNCTION_LIST, the version not counted.
_FUNCTIONS = {
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetSlotList": 4,
    "C_GetTokenInfo": 6,
    "C_InitToken": 9,
    "C_InitPIN": 10,
    "C_SetPIN": 11,
    "C_OpenSession": 12,
    "C_CloseSession": 13,
    "C_Login": 18,
    "C_Logout": 19,
    "C_GetAttributeValue": 24,
    "C_FindObjectsInit": 26,
    "C_FindObjects": 27,
    "C_FindObjectsFinal": 28,
}


class _Attribute(ctypes.Structure):
    _fields_ = [("type", _ULONG), ("value", ctypes.c_void_p), ("length", _ULONG)]


class _List(ctypes.Structure):
    _fields_ = [("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68)]


class _Arguments(ctypes.Structure):
    _fields_ = [("mutexes", ctypes.c_void_p * 4), ("flags", _ULONG), ("reserved", ctypes.c_char_p)]


class Raw:
    """A module, initialised."""

    def __init__(self, path: str, reserved: str | None) -> None:
        lists = ctypes.POINTER(_List)()
        assert ctypes.CDLL(path).C_GetFunctionList(ctypes.byref(lists)) == _OK
        self._list = lists.contents
        arguments = _Arguments(flags=2, reserved=reserved.encode() if reserved else None)
        self("C_Initialize", ctypes.byref(arguments))

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function; integers go as CK_ULONG."""
        prototype = ctypes.CFUNCTYPE(_ULONG, *[_ULONG if isinstance(a, int) else ctypes.c_void_p for a in arguments])
        passed = [a if isinstance(a, int) else ctypes.cast(a, ctypes.c_void_p) for a in arguments]
        code = prototype(self._list.functions[_FUNCTIONS[name]])(*passed)
        if code != _OK:
            raise SystemExit(f"{name} answered 0x{code:x}")

    def slots(self) -> list[int]:
        """Every slot with a token in it, initialised or not."""
        number = _ULONG()
        self("C_GetSlotList", 1, None, ctypes.byref(number))
        slots = (_ULONG * number.value)()
        self("C_GetSlotList", 1, slots, ctypes.byref(number))
        return list(slots)[: number.value]

    def token(self, slot: int) -> tuple[str, str, int]:
        """Label, serial and flags of the token in a slot."""
        info = ctypes.create_string_buffer(512)
        self("C_GetTokenInfo", slot, info)
        flags = _ULONG.from_buffer(info, 96).value
        return info.raw[:32].decode().rstrip(), info.raw[80:96].decode(errors="replace").rstrip(" \0"), flags

    def session(self, slot: int) -> int:
        """A read-write session."""
        handle = _ULONG()
        self("C_OpenSession", slot, _RW_SESSION, None, None, ctypes.byref(handle))
        return handle.value

    def initialize(self, slot: int, order: dict[str, Any]) -> None:
        """Initialise the token, where the order has a label, and set the user's PIN."""
        so_pin, pin, new_so_pin = (order[name].encode() for name in ("so_pin", "pin", "new_so_pin"))
        if order["label"]:
            label = order["label"].encode().ljust(32)
            self("C_InitToken", slot, so_pin, len(so_pin), label)
        session = self.session(slot)
        self("C_Login", session, _SO, so_pin, len(so_pin))
        if new_so_pin != so_pin:
            self("C_SetPIN", session, so_pin, len(so_pin), new_so_pin, len(new_so_pin))
        self("C_InitPIN", session, pin, len(pin))
        self("C_Logout", session)
        self("C_CloseSession", session)

    def public_keys(self, slot: int, pin: str) -> dict[str, tuple[str, str]]:
        """Modulus and exponent in hex."""
        session = self.session(slot)
        self("C_Login", session, _USER, pin.encode(), len(pin.encode()))
        wanted = _ULONG(_PUBLIC_KEY)
        template = _Attribute(_CLASS, ctypes.cast(ctypes.byref(wanted), ctypes.c_void_p), ctypes.sizeof(wanted))
        self("C_FindObjectsInit", session, ctypes.byref(template), 1)
        handles, number = (_ULONG * 100)(), _ULONG()
        self("C_FindObjects", session, handles, 100, ctypes.byref(number))
        self("C_FindObjectsFinal", session)
        found = {}
        for handle in list(handles)[: number.value]:
            label, modulus, exponent = (self._value(session, handle, kind) for kind in (_LABEL, _MODULUS, _EXPONENT))
            found[label.decode()] = (modulus.hex(), exponent.hex())
        return found

    def _value(self, session: int, handle: int, kind: int) -> bytes:
        buffer = ctypes.create_string_buffer(1024)
        attribute = _Attribute(kind, ctypes.cast(buffer, ctypes.c_void_p), 1024)
        self("C_GetAttributeValue", session, handle, ctypes.byref(attribute), 1)
        return buffer.raw[: attribute.length]


def main() -> None:
    order = json.loads(sys.argv[1])
    raw = Raw(order["module"], order.get("reserved"))
    slots = {slot: raw.token(slot) for slot in raw.slots()}
    match order["do"]:
        case "slots":
            print(json.dumps(list(slots.items())))
        case "initialize":
            raw.initialize(order["slot"], order)
        case "public_keys":
            (slot,) = (slot for slot, (label, _, _) in slots.items() if label == order["label"])
            print(json.dumps(raw.public_keys(slot, order["pin"])))
    raw("C_Finalize", None)


if __name__ == "__main__":
    main()
