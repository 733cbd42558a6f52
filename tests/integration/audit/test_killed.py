"""SIGKILL under load, of workers and of the whole service: no answered signature is without its record."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from functools import partial

from privyseal import Client, SignatureScheme
from privyseal.errors import PrivysealError
from tests.integration.audit.conftest import Farm
from tests.support.background import Background
from tests.support.processes import children
from tests.support.serving import Serving

BUILDS = 4
ROUNDS, KILLED_WORKERS = 2, 2
TORN = b'{"v":1,"n":999999,"time":"20'


class Load(Background):
    """Builds that sign without a pause; what was answered is kept."""

    def __init__(self, farm: Farm, serving: Serving, round_: int) -> None:
        self.answered: list[bytes] = []
        self._round = round_
        self._clients = [farm.client(serving, timeout_s=5.0) for _ in range(BUILDS)]
        super().__init__(partial(self._run, number, client) for number, client in enumerate(self._clients))

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for client in self._clients:
            client.close()
        super().__exit__()

    def _run(self, number: int, client: Client) -> None:
        turn = 0
        while not self.ending.is_set():
            turn += 1
            checksum = hashlib.sha256(f"{self._round} {number} {turn}".encode()).digest()
            with contextlib.suppress(PrivysealError):
                signed = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3, key="demo")
                self.answered.append(signed.signature)

    def wait_for(self, more: int) -> None:
        """Until so many more were answered."""
        wanted = len(self.answered) + more
        deadline_s = time.monotonic() + 30
        while len(self.answered) < wanted:
            assert time.monotonic() < deadline_s, "nothing is answered any more"
            time.sleep(0.005)


def test_no_answered_signature_is_without_its_record(farm: Farm) -> None:
    farm.configure(server="workers = 2", audit='sinks = [{ kind = "file", path = "elsewhere" }]\n')
    answered: list[bytes] = []
    for round_ in range(ROUNDS):
        with farm.serving() as serving:
            with Load(farm, serving, round_) as load:
                for _ in range(KILLED_WORKERS):
                    load.wait_for(15)
                    os.kill(children(serving.process.pid)[0], signal.SIGKILL)
                load.wait_for(15)
                serving.process.kill()
                serving.process.wait()
            answered += load.answered
    torn = max((farm.audit / "segments" / "w0").glob("*.jsonl"))
    with torn.open("ab") as file:  # what a crash of the host may leave of a record
        file.write(TORN)
    with farm.serving() as serving:
        assert serving.stop() == 0

    lines = farm.lines()
    on_record = b"\n".join(lines)
    assert len(answered) >= ROUNDS * (KILLED_WORKERS + 1) * 15
    assert [s for s in answered if hashlib.sha256(s).hexdigest().encode() not in on_record] == []
    ends = [end for record in farm.records() if record["kind"] == "segment" for end in record["ended"]]  # type: ignore[attr-defined]
    assert any(end["reason"] == "crashed" for end in ends)
    assert any(end.get("set_aside_bytes") == len(TORN) for end in ends)
    done = farm.verify("--checkpoint", farm.folder / "elsewhere")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_signed_of_a_batch_is_on_record_though_the_service_is_killed(farm: Farm) -> None:
    farm.configure(server="workers = 1", store="delay_s = 0.005\n")
    checksums = [hashlib.sha256(b"%d" % number).digest() for number in range(2000)]
    with farm.serving() as serving, farm.client(serving, timeout_s=60.0) as client:
        building = threading.Thread(target=_batch, args=(client, checksums))
        building.start()
        segments = farm.audit / "segments" / "w0"
        deadline_s = time.monotonic() + 30
        while not any(b'"item":63,' in each.read_bytes() for each in segments.glob("*.jsonl")):
            assert time.monotonic() < deadline_s, "nothing of the batch is on record"
            time.sleep(0.01)
        serving.process.kill()
        serving.process.wait()
        building.join()
    with farm.serving() as serving:
        assert serving.stop() == 0
    found = [record for record in farm.records() if record.get("batch") == 2000 and "item" in record]
    assert 64 <= len(found) < 2000
    assert [record["checksum"] for record in found] == [checksum.hex() for checksum in checksums[: len(found)]]
    assert farm.verify().returncode == 0


def _batch(client: Client, checksums: list[bytes]) -> None:
    with contextlib.suppress(PrivysealError):
        client.batch_sign_checksums(checksums, scheme=SignatureScheme.CAPGO_V3, key="demo")
