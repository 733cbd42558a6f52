"""Callers that sign all the time with the SDK, verify every signature with pyca, and keep the results."""

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
class Result:
    """One result: when it came (`time.monotonic()`), how long it took, and "ok" or the code and reason."""

    at_s: float
    took_s: float
    what: str


class Callers(Background):
    """Threads that call a service all the time; a context manager.

    With `capgo` they wrap session keys and sign checksums, one by one and in batches; otherwise they sign RSASSA.
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
        self.results: list[Result] = []
        self.answers: set[str] = set()
        self.wrong: list[str] = []
        self.signed = 0

    def since(self, when_s: float) -> collections.Counter[str]:
        """Count the results since then."""
        with self._lock:
            return collections.Counter(each.what for each in self.results if each.at_s >= when_s)

    def steady_since(self, after_s: float, number: int) -> float | None:
        """Return when the first of `number` successes in a row came after that; None if there were none."""
        run: list[Result] = []
        with self._lock:
            later = [each for each in self.results if each.at_s >= after_s]
        for each in later:
            run = [*run, each] if each.what == "ok" else []
            if len(run) == number:
                return run[0].at_s
        return None

    def unrecorded(self, recorded: Callable[[], set[str]]) -> set[str]:
        """Return the SHA-256 of every signature that was received and is not recorded. All are forgotten then."""
        with self._lock:
            received = set(self.answers)
        found = recorded()  # read after the answers were received: each must be recorded by now
        with self._lock:
            self.answers -= received
        return received - found

    def forget(self) -> None:
        """Drop the results, so that memory stays flat over hours."""
        with self._lock:
            self.results.clear()

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
                    self.results.append(Result(now_s, now_s - begun_s, what))
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
