"""The example's agent as a store of the conformance suite: the one function that a new backend needs there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from privyseal_backends.interface import Export, Mechanism, Origin, Protection
from privyseal_service.domain.operations import Scheme, WrapScheme
from tests.conformance.stores import (
    CAPGO,
    LARGE,
    RSASSA,
    Fault,
    KeyUnderTest,
    Kind,
    KnownAnswer,
    StoreUnderTest,
    vector_answers,
    vector_key,
)

PASSPHRASE = "the passphrase of the tests"


@contextlib.contextmanager
def labagent(folder: Path, installed: Path) -> Iterator[StoreUnderTest]:
    """An agent with five keys, behind a proxy that fails on cue."""
    proxy = FaultyAgent(folder / "s", folder / "agent")
    keys: list[KeyUnderTest] = []
    arguments: list[str] = []

    def add(
        name: str,
        purpose: str,
        private_key: rsa.RSAPrivateKey,
        can: frozenset[Mechanism],
        schemes: tuple[Scheme, ...],
        known: tuple[KnownAnswer, ...] = (),
    ) -> None:
        file = folder / f"{name}.pem"
        encryption = BestAvailableEncryption(PASSPHRASE.encode())
        file.write_bytes(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        arguments.append(f"{name}:{purpose}:{file}")
        custody = (Protection.SOFTWARE, Origin.IMPORTED, Export.POSSIBLE)
        uri = f"labagent:{proxy.path}?key={name}"
        place = (str(proxy.path), name)
        keys.append(KeyUnderTest(name, uri, private_key.public_key(), can, schemes, custody, place, known))

    for name in ("capgo-v2", "capgo-v3"):
        add(name, "type1", vector_key(name), frozenset({Mechanism.TYPE1}), CAPGO, vector_answers(name))
    add("rsassa", "signatures", rsa.generate_private_key(65537, 2048), LARGE, RSASSA)
    add("large", "signatures", rsa.generate_private_key(65537, 3072), LARGE, RSASSA)
    oaep = frozenset({Mechanism.OAEP_SHA256, Mechanism.OAEP_SHA1})
    unwrapping = (WrapScheme.RSAES_OAEP_SHA256, WrapScheme.RSAES_OAEP_SHA1)
    add("wrapping", "decryption", rsa.generate_private_key(65537, 2048), oaep, unwrapping)

    with agent(folder, installed, arguments), proxy:
        yield StoreUnderTest(
            scheme="labagent",
            keys=tuple(keys),
            faults={fault: lambda fault=fault: proxy.fail(fault) for fault in Fault},  # type: ignore[misc]
            clear=proxy.clear,
            private_calls=lambda: proxy.private_calls,
            at_once=4,
            absent=f"labagent:{proxy.path}?key=nobody",
            malformed=("labagent:", "labagent:relative?key=a", f"labagent:{proxy.path}?key=a&key=b"),
            refused=Kind.OPERATOR,
            impatient={"open_timeout_s": 0.5},
            secrets=(PASSPHRASE,),
            places=(str(folder),),
        )


@contextlib.contextmanager
def agent(folder: Path, installed: Path, arguments: list[str], *, encrypted: bool = True) -> Iterator[None]:
    """The agent at `folder`/agent, in a process of its own; `encrypted` says whether its files are."""
    command = [sys.executable, "-m", "privyseal_labagent.agent", "--socket", str(folder / "agent"), *arguments]
    if encrypted:
        (folder / "passphrase").write_text(PASSPHRASE + "\n")
        command += ["--passphrase-file", str(folder / "passphrase")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening {folder / 'agent'}\n"
            yield
        finally:
            process.terminate()
            process.wait(200)


class FaultyAgent:
    """A proxy in front of the agent, at a socket of its own; a context manager."""

    def __init__(self, path: Path, agent_path: Path) -> None:
        self.path = path
        self.private_calls = 0
        self._agent_path = agent_path
        self._fault: Fault | None = None
        self._let_go = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)

    def fail(self, fault: Fault) -> None:
        self._let_go = threading.Event()
        self._fault = fault

    def clear(self) -> None:
        self._fault = None
        self._let_go.set()

    def __enter__(self) -> FaultyAgent:
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._connections.add(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(str(self._agent_path))
            lines, answers = connection.makefile("rb"), upstream.makefile("rb")
            with contextlib.suppress(OSError), lines, answers:
                for line in lines:
                    answer = self._answer(line, upstream, answers)
                    if answer is None:
                        return
                    connection.sendall(json.dumps(answer).encode() + b"\n")
        with self._lock:
            self._connections.discard(connection)

    def _answer(self, line: bytes, upstream: socket.socket, answers: Any) -> dict[str, Any] | None:
        private = json.loads(line)["op"] != "describe"
        with self._lock:
            self.private_calls += private
        fault, let_go = self._fault, self._let_go
        if fault is Fault.AWAY:
            return None
        if private and fault in (Fault.BUSY, Fault.REFUSED):
            return {"error": fault.value}
        if private and fault is Fault.HANGS:
            let_go.wait()
        upstream.sendall(line)
        answer: dict[str, Any] = json.loads(answers.readline())
        if fault is Fault.CORRUPTED and "value" in answer:
            answer["value"] = f"{int(answer['value'], 16) ^ 1:0{len(answer['value'])}x}"
        return answer
