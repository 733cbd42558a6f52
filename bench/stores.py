"""Key stores for benchmarks: one that costs nothing, one that takes its time as a network HSM does, and one that takes
CPU time of the service's own process, as SoftHSM does.

Both answer with one signature that was made at the start, since what is measured is the service and not RSA.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.fakes.software_store import StoredKey, mechanisms_of, software_signature

from privyseal_backends.interface import (
    DeadlineError,
    Key,
    KeyDescription,
    Mechanism,
    Purpose,
    Signature,
    SigningInput,
    SigningResult,
)


class BenchStore:
    """Keys of one private key. `sessions` and `latency_s` bound what it does at once; 0 is a store without either. With
    `cpu_s` each signature takes so much CPU time, in as many threads as there are sessions."""

    def __init__(self, private_key: rsa.RSAPrivateKey, sessions: int, latency_s: float, cpu_s: float) -> None:
        self._stored = StoredKey(private_key, mechanisms_of(Purpose.TYPE1))
        self._sessions = sessions
        self._latency_s = latency_s
        self._cpu_s = cpu_s

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:  # noqa: ARG002 - the protocol's
        if self._cpu_s:
            return BusyKey(self._stored, self._sessions, self._cpu_s)
        if self._latency_s:
            return SlowKey(self._stored, self._sessions, self._latency_s)
        return InstantKey(self._stored)

    async def close(self) -> None:
        pass


class InstantKey:
    """Answers at once."""

    def __init__(self, stored: StoredKey) -> None:
        self.description: KeyDescription = stored.description()
        self._value = software_signature(stored.private_key, SigningInput(Mechanism.TYPE1, bytes(32)))

    async def sign(
        self,
        inputs: Sequence[SigningInput],
        deadline_s: float,  # noqa: ARG002 - the protocol's
    ) -> Sequence[SigningResult]:
        return [Signature(self._value) for _ in inputs]


class SlowKey(InstantKey):
    """Has so many sessions, each of which takes `latency_s` for a signature."""

    def __init__(self, stored: StoredKey, sessions: int, latency_s: float) -> None:
        super().__init__(stored)
        self.parallel_inputs = sessions
        self._latency_s = latency_s
        # When each session is free again: the times are kept and not the waits, so that a late timer costs no rate.
        self._free_s = [0.0] * sessions

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        now_s = time.monotonic()
        ends_s = []
        for _ in inputs:
            self._free_s.sort()
            ends_s.append(max(now_s, self._free_s[0]) + self._latency_s)
            self._free_s[0] = ends_s[-1]
        end_s = min(max(ends_s), deadline_s)
        await asyncio.sleep(max(0.0, end_s - now_s))
        late = DeadlineError("bench", "the deadline passed")
        return [Signature(self._value) if each <= deadline_s else late for each in ends_s]


_ROUNDS = 250


def burn(seconds: float) -> None:
    """Use so much CPU time of this thread, without Python's lock."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        hashlib.pbkdf2_hmac("sha256", b"burn", b"salt", _ROUNDS)


class BusyKey(InstantKey):
    """Has so many threads, each of which takes `cpu_s` of CPU time for a signature."""

    def __init__(self, stored: StoredKey, sessions: int, cpu_s: float) -> None:
        super().__init__(stored)
        self.parallel_inputs = sessions
        self._cpu_s = cpu_s
        self._threads = ThreadPoolExecutor(sessions)

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._threads, self._one, deadline_s) for _ in inputs))

    def _one(self, deadline_s: float) -> SigningResult:
        if time.monotonic() >= deadline_s:
            return DeadlineError("bench", "the deadline passed")
        burn(self._cpu_s)
        return Signature(self._value)


def open_store(settings: Mapping[str, object]) -> BenchStore:
    """The entry point. `key` is a PEM file, `sessions`, `latency_s` and `cpu_s` are as above."""
    private_key = load_pem_private_key(Path(str(settings["key"])).read_bytes(), None)
    assert isinstance(private_key, rsa.RSAPrivateKey)
    latency_s, cpu_s = (float(str(settings.get(name, 0))) for name in ("latency_s", "cpu_s"))
    return BenchStore(private_key, int(str(settings.get("sessions", 0))), latency_s, cpu_s)
