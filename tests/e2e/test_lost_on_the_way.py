"""Builds that go on while workers are killed, and a call whose answer is lost on its way: the real programs."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from privyseal import Client, SignatureScheme
from tests.support.processes import children, listeners_at, lives, until
from tests.support.programs import CAPGO_SCHEMES, VECTORS, RealService, configuration, serving, write_pki
from tests.support.shim import FaultShim
from tests.support.softhsm import import_rsa_key, make_token
from tests.support.zips import write_zip

BUILDS = 6


@contextmanager
def slow_service(folder: Path) -> Iterator[RealService]:
    """Two workers on a token that takes its time, so that calls are under way whenever one of them is killed."""
    token = make_token(folder / "hsm", "slow")
    import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
    shim = FaultShim.build(folder, token.module_path)
    write_pki(folder)
    text = configuration({"demo": (token.uri("demo", module_path=shim.path), CAPGO_SCHEMES)})
    with serving(folder, f"[server]\nworkers = 2\n{text}", token.environment) as service:
        until(lambda: len(listeners_at(service.address)) == 2)
        shim.delay("C_Sign", 0.2)
        yield service
        shim.clear()


def test_builds_seal_while_workers_are_killed_and_nobody_notices(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    folder.mkdir()

    def build(number: int) -> str:
        place = tmp_path / f"build-{number}"
        place.mkdir()
        write_zip(place / "app.zip", {"index.html": b"<html>%d" % number})
        done = service.privyseal("bundle", "encrypt", "app.zip", "--format", "capgo-v3", "--json", cwd=place)
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)) >= {"checksum", "ivSessionKey"}
        return done.stderr

    with slow_service(folder) as service, ThreadPoolExecutor(BUILDS) as builds:
        quiet = build(100)
        ending = [builds.submit(build, number) for number in range(BUILDS)]
        killed: set[int] = set()
        while not all(each.done() for each in ending) or len(killed) < 3:
            # One at a time, each once the one before has its successor.
            pids = children(service.process.pid)
            if len(listeners_at(service.address)) == 2 == len(pids):
                killed.add(pids[0])
                os.kill(pids[0], signal.SIGKILL)
                until(lambda gone=pids[0]: not lives(gone))  # type: ignore[misc]
            threading.Event().wait(0.1)
        assert {each.result() for each in ending} == {quiet}


class LosesAnswers:
    """A way to an address on which nothing comes back from the first connection once `lose` was called, until it is
    `cut`; the next connections are well."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._there = (host, int(port))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._losing: socket.socket | None = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def lose(self) -> None:
        """Nothing comes back any more over the connection that there is."""
        self._losing = self._pairs[0][1]

    def cut(self) -> None:
        """The connection is gone."""
        for each in self._pairs[0]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """No connection is left."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for pair in self._pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for pair in self._pairs:
            for each in pair:
                each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(self._there)
                self._pairs.append((near, far))
                for source, target in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._pass_on, args=(source, target), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source is not self._losing:
                    target.sendall(data)


def answered(service: RealService) -> list[dict[str, Any]]:
    """The records of signatures that were made."""
    lines = (line for file in service.folder.glob("audit/segments/*/*.jsonl") for line in file.open())
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record.get("operation") == "sign-checksum"]


def test_the_records_of_a_call_that_was_signed_twice_are_tied_by_its_id(tmp_path: Path) -> None:
    token = make_token(tmp_path / "hsm", "demo")
    import_rsa_key(token, "demo", VECTORS / "capgo-v3" / "private.pem")
    write_pki(tmp_path)
    with serving(tmp_path, configuration({"demo": (token.uri("demo"), CAPGO_SCHEMES)}), token.environment) as service:
        way = LosesAnswers(service.address)
        files = {"ca": tmp_path / "ca.pem", "cert": tmp_path / "client.pem", "cert_key": tmp_path / "client-key.pem"}
        try:
            with Client(way.address, **files) as client, ThreadPoolExecutor(1) as build:
                client.list_keys()
                way.lose()
                signing = build.submit(client.sign_checksum, bytes(32), scheme=SignatureScheme.CAPGO_V3)
                until(lambda: len(answered(service)) == 1)
                way.cut()
                signed = signing.result()
            first, second = answered(service)
        finally:
            way.close()
    assert signed.request_id == second["request_id"] != first["request_id"]
    assert first["call_id"] == second["call_id"]
    assert first["signature_sha256"] == second["signature_sha256"]
