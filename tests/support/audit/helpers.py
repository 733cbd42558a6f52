"""What the audit trail's tests share: records, a file system that fails on cue, naive trees."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from privyseal_service.audit.encoder import Encoder
from privyseal_service.audit.record import DecisionRecord, Record
from privyseal_service.domain.caller import Caller, Proof
from privyseal_service.domain.decisions import Decision, Item, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.domain.replica import Source
from privyseal_service.domain.requests import Context
from privyseal_service.system.files import SystemFiles

START_US = 1_780_000_000_000_000
SOURCE = Source("replica-1", "w0")
CALLER = Caller("dns:build.demo.example", Proof("mtls", {"certificate": "ab" * 32}))


def decision(number: int = 0, **changes: object) -> DecisionRecord:
    """The record of a checksum that was signed; `changes` are fields of the record, its decision or its item."""
    fields: dict[str, object] = {
        "request_id": f"req-{number}",
        "peer": "ipv4:127.0.0.1:40000",
        "operation": "sign-checksum",
        "outcome": Outcome.ANSWERED,
        "code": Code.OK,
        "key": "demo",
        "key_version": "a1b2",
        "key_fingerprint": "cd" * 32,
        "scheme": "capgo-v3",
        "context": Context("com.example.app", "1.2.3"),
        "grant": "build farm",
    }
    item: dict[str, object] = {
        "checksum": sha256(b"bundle %d" % number).digest(),
        "signature_sha256": sha256(b"signature %d" % number).digest(),
        "queued_s": 0.000_25,
        "store_s": 0.000_6,
    }
    time_us = changes.pop("time_us", START_US + number)
    caller = changes.pop("caller", CALLER)
    fields |= {"caller": caller.name, "proof": caller.proof}  # type: ignore[attr-defined]
    item |= {name: changes.pop(name) for name in Item._fields if name in changes}
    return DecisionRecord(time_us, Decision(**(fields | changes)), Item(**item))  # type: ignore[arg-type]


def encode(record: Record, source: Source, number: int) -> bytes:
    """One record's line."""
    return Encoder(source).line(record, number)


class FaultyFiles(SystemFiles):
    """Real files that fail where a test says so, and keep a diary of what was asked of them.

    `fault(verb, name)` returns an errno, or None to let the call through; it is asked before each call. `tear` says how
    many bytes of a failing write still get through.
    """

    def __init__(self, fault: Callable[[str, str], int | None] = lambda _verb, _name: None, tear: int = 0) -> None:
        self.fault = fault
        self.tear = tear
        self.diary: list[tuple[str, str]] = []
        self.names: dict[int, str] = {}
        self.lock = threading.Lock()

    def _ask(self, verb: str, name: str) -> None:
        with self.lock:
            self.diary.append((verb, name))
            code = self.fault(verb, name)
        if code is not None:
            raise OSError(code, os.strerror(code), name)

    def create(self, path: Path) -> int:
        self._ask("create", path.name)
        descriptor = super().create(path)
        self.names[descriptor] = path.name
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        try:
            self._ask("write", self.names[descriptor])
        except OSError:
            super().write(descriptor, data[: self.tear])
            raise
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._ask("sync", self.names[descriptor])
        super().sync(descriptor)

    def close(self, descriptor: int) -> None:
        self._ask("close", self.names.pop(descriptor))
        super().close(descriptor)

    def sync_folder(self, folder: Path) -> None:
        self._ask("sync_folder", folder.name)
        super().sync_folder(folder)

    def rename(self, source: Path, target: Path) -> None:
        self._ask("rename", target.name)
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._ask("remove", path.name)
        super().remove(path)


def fail_on(verb: str, *, times: int | None = None, code: int = errno.EIO) -> Callable[[str, str], int | None]:
    """A fault for `FaultyFiles`: the next `times` calls of a verb fail, or all of them."""
    left = [times]

    def fault(asked: str, _name: str) -> int | None:
        if asked != verb or left[0] == 0:
            return None
        if left[0] is not None:
            left[0] -= 1
        return code

    return fault


def no_fault(_verb: str, _name: str) -> int | None:
    return None


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def naive_path(m: int, hashes: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*naive_path(m, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_path(m - k, hashes[k:]), naive_root(hashes[:k])]


def naive_proof(m: int, hashes: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if m == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*naive_proof(m, hashes[:k], whole), naive_root(hashes[k:])]
    return [*naive_proof(m - k, hashes[k:], False), naive_root(hashes[:k])]
