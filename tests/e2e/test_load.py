"""The real service under the load of one client's threads, and how it ends."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

from privyseal import PrivysealError, SignatureScheme, WrapScheme
from privyseal.capgo import recover_checksum, recover_session_key
from privyseal.model import SignedChecksum
from privyseal.verification import public_key_of
from tests.support.processes import until
from tests.support.programs import RealService, serving_vectors

THREADS = 8
SECONDS = 10.0
V3 = SignatureScheme.CAPGO_V3


def test_eight_threads_of_one_client_for_ten_seconds(service: RealService) -> None:
    errors: list[PrivysealError] = []
    signed: list[int] = []
    with service.client() as client:
        public_key = public_key_of(client.get_key("capgo-v3"))
        until = time.monotonic() + SECONDS

        def work(number: int) -> None:
            done = 0
            while time.monotonic() < until:
                checksum = hashlib.sha256(f"{number}:{done}".encode()).digest()
                try:
                    signature = client.sign_checksum(checksum, scheme=V3, key="capgo-v3").signature
                    assert recover_checksum(public_key, V3, signature) == checksum
                    if done % 10 == 0:
                        session_key = checksum[:16]
                        wrapped = client.wrap_session_key(session_key, scheme=WrapScheme.CAPGO, key="capgo-v3")
                        assert recover_session_key(public_key, wrapped.wrapped_key) == session_key
                except PrivysealError as error:
                    errors.append(error)
                done += 1
            signed.append(done)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(signed) == THREADS
    assert min(signed) > 0


def test_a_whole_batch_in_order(service: RealService) -> None:
    checksums = [hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(2000)]
    with service.client() as client:
        public_key = public_key_of(client.get_key("capgo-v3"))
        results = client.batch_sign_checksums(checksums, scheme=V3, key="capgo-v3")
    assert [recover_checksum(public_key, V3, result.signature) for result in results] == checksums


def test_sigterm_finishes_what_is_in_flight_and_exits_0(tmp_path: Path) -> None:
    with serving_vectors(tmp_path) as (service, _), service.client() as client:
        checksums = [hashlib.sha256(bytes([number])).digest() for number in range(256)] * 4
        results: list[object] = []

        def work() -> None:
            results.extend(client.batch_sign_checksums(checksums, scheme=V3, key="capgo-v3"))

        client.get_key("capgo-v3")
        thread = threading.Thread(target=work)
        thread.start()
        # Its first part is on record, and the others are yet to be signed.
        segments = tmp_path / "audit" / "segments"
        until(lambda: any(b'"batch":1024' in each.read_bytes() for each in segments.glob("*/*.jsonl")))
        assert service.stop() == 0
        thread.join()
        assert [type(result) for result in results] == [SignedChecksum] * len(checksums)
        assert "Traceback" not in service.log.read_text()
