"""Callers that never stop: they sign with the SDK, verify every signature with pyca, and keep what they met."""

from __future__ import annotations

import collections
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal import Client, SignatureScheme, WrapScheme
from privyseal.errors import PrivysealError, ServiceError
from tests.support.background import Background

BATCH = 8


@dataclass(frozen=True)
class Met:
    """One answer: when it came (`time.monotonic()`), how long it took, what it was: "ok", or the code and reason."""

    at_s: float
    took_s: float
    what: str


class Callers(Background):
    """Threads that call a service without a pause; a context manager.

    `capgo` callers wrap session keys and sign checksums, one by one and in batches; others sign RSASSA.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        public_key: RSAPublicKey,
        *,
        number: int = 4,
        capgo: bool = True,
        pause_s: float = 0.0,
    ) -> None:
        self._connect = connect
        self._public_key = public_key
        self._capgo = capgo
        self._pause_s = pause_s
        self._lock = threading.Lock()
        super().__init__(partial(self._run, place) for place in range(number))
        self.met: list[Met] = []
        self.answers: set[str] = set()
        self.wrong: list[str] = []
        self.signed = 0

    def since(self, when_s: float) -> collections.Counter[str]:
        """What was met since then, by how often."""
        with self._lock:
            return collections.Counter(each.what for each in self.met if each.at_s >= when_s)

    def first_ok(self, after_s: float) -> float | None:
        """When the first good answer came to a call that was made, or went on, after that."""
        with self._lock:
            return next((each.at_s for each in self.met if each.what == "ok" and each.at_s >= after_s), None)

    def steady_since(self, after_s: float, number: int) -> float | None:
        """When the first of `number` good answers in a row came, all after that."""
        run: list[Met] = []
        with self._lock:
            later = [each for each in self.met if each.at_s >= after_s]
        for each in later:
            run = [*run, each] if each.what == "ok" else []
            if len(run) == number:
                return run[0].at_s
        return None

    def unrecorded(self, recorded: Callable[[], set[str]]) -> set[str]:
        """The SHA-256 of every result that has come and is not among those on record. Those that are, are forgotten."""
        with self._lock:
            come = set(self.answers)
        found = recorded()  # read after the answers had come: each must be there by now
        with self._lock:
            self.answers -= come
        return come - found

    def forget(self) -> None:
        """Keep memory flat over hours: nothing that was met is asked for any more."""
        with self._lock:
            self.met.clear()

    def _run(self, place: int) -> None:
        works: Sequence[Callable[[Client], list[bytes]]] = (
            (self._sign, self._wrap, self._sign, self._batch) if self._capgo else (self._sign_rsassa,)
        )
        with self._connect() as client:
            turn = place
            while not self.ending.is_set():
                turn += 1
                begun_s = time.monotonic()
                try:
                    signatures = works[turn % len(works)](client)
                    what = "ok"
                except ServiceError as error:
                    signatures, what = [], f"{error.code.name} {error.details.reason}".strip()
                except PrivysealError as error:
                    signatures, what = [], type(error).__name__
                now_s = time.monotonic()
                with self._lock:
                    self.met.append(Met(now_s, now_s - begun_s, what))
                    self.signed += what == "ok"
                    self.answers.update(hashlib.sha256(each).hexdigest() for each in signatures)
                self.ending.wait(self._pause_s if what == "ok" else 0.02)

    def _sign(self, client: Client) -> list[bytes]:
        checksum = os.urandom(32)
        signature = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3).signature
        self._check_type1(signature, checksum)
        return [signature]

    def _wrap(self, client: Client) -> list[bytes]:
        session_key = os.urandom(16)
        wrapped = client.wrap_session_key(session_key, scheme=WrapScheme.CAPGO).wrapped_key
        self._check_type1(wrapped, session_key)
        return [wrapped]

    def _batch(self, client: Client) -> list[bytes]:
        checksums = [os.urandom(32) for _ in range(BATCH)]
        results = client.batch_sign_checksums(checksums, scheme=SignatureScheme.CAPGO_V3)
        signatures = []
        failure: ServiceError | None = None
        for checksum, result in zip(checksums, results, strict=True):
            if isinstance(result, ServiceError):
                failure = result
            else:
                self._check_type1(result.signature, checksum)
                signatures.append(result.signature)
        with self._lock:
            self.answers.update(hashlib.sha256(each).hexdigest() for each in signatures)
        if failure is not None:
            raise failure
        return signatures

    def _sign_rsassa(self, client: Client) -> list[bytes]:
        checksum = os.urandom(32)
        signature = client.sign_checksum(checksum, scheme=SignatureScheme.RSASSA_PKCS1_V1_5_SHA256).signature
        try:
            from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415

            self._public_key.verify(signature, checksum, PKCS1v15(), Prehashed(SHA256()))
        except InvalidSignature:
            self.wrong.append(checksum.hex())
        return [signature]

    def _check_type1(self, signature: bytes, data: bytes) -> None:
        try:
            opened = self._public_key.recover_data_from_signature(signature, PKCS1v15(), None)
        except InvalidSignature:
            opened = b""
        if opened != data:
            self.wrong.append(data.hex())
