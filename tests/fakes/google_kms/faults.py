"""Faults that a test queues into the fake: each spoils one call of one method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc
from google.cloud.kms_v1 import types


@dataclass(frozen=True)
class Refuse:
    """Answer with a status; `retry_delay_s` adds a google.rpc.RetryInfo."""

    code: grpc.StatusCode
    message: str = "refused by a test"
    retry_delay_s: float | None = None


@dataclass(frozen=True)
class Hang:
    """Answer never: until the caller gives up."""


@dataclass(frozen=True)
class Hold:
    """Answer once `gate` is set."""

    gate: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Alter:
    """Answer with a change that the call's own handler knows nothing of."""

    change: Callable[[Any], None]


Fault = Refuse | Hang | Hold | Alter


def corrupted_signature(*, checksum_fits: bool) -> Alter:
    """A flipped bit, changed after the checksum was made, or before."""

    def change(answer: types.AsymmetricSignResponse) -> None:
        broken = bytearray(answer.signature)
        broken[17] ^= 0x40
        answer.signature = bytes(broken)
        if checksum_fits:
            answer.signature_crc32c = _crc32c(answer.signature)

    return Alter(change)


def altered_plaintext() -> Alter:
    """A flipped bit in what was decrypted."""

    def change(answer: types.AsymmetricDecryptResponse) -> None:
        answer.plaintext = bytes([answer.plaintext[0] ^ 1]) + answer.plaintext[1:]

    return Alter(change)


def wrong_checksum(field_name: str, *, absent: bool = False) -> Alter:
    """Another CRC32C than the answer's own, or none."""

    def change(answer: Any) -> None:
        setattr(answer, field_name, None if absent else (getattr(answer, field_name) + 1) % (1 << 32))

    return Alter(change)


def other_key() -> Alter:
    """The name of another key version."""

    def change(answer: Any) -> None:
        answer.name = answer.name[:-1] + ("2" if answer.name[-1] != "2" else "3")

    return Alter(change)


def unverified(field_name: str) -> Alter:
    """`verified_*` false: the request's checksum did not arrive."""

    def change(answer: Any) -> None:
        setattr(answer, field_name, False)

    return Alter(change)


def other_protection_level() -> Alter:
    """Made at another protection level than the key's."""

    def change(answer: Any) -> None:
        external = types.ProtectionLevel.EXTERNAL
        answer.protection_level = external

    return Alter(change)


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))
