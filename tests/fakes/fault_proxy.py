"""A proxy between boto3 and an AWS emulator that makes the faults which the emulator cannot: queued for each operation.

It speaks HTTP/1.1 on a free loopback port, forwards each call to the emulator, and does to the next call of an
operation what was queued for it. It keeps a record of all calls.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Answer:
    """A whole answer in place of the emulator's; `code` is AWS's name of the error."""

    status: int
    code: str
    message: str = "made by the fault proxy"


def throttled() -> Answer:
    """What AWS KMS answers above a quota."""
    return Answer(400, "ThrottlingException", "You have exceeded the rate at which you may call KMS.")


@dataclass(frozen=True)
class Cut:
    """The connection is closed: before the call is forwarded, or in the middle of the answer's body."""

    in_answer: bool = False


@dataclass(frozen=True)
class Delay:
    """The call is forwarded after this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Hang:
    """The call is forwarded when `let_go` is set; `arrived` says that it came."""

    arrived: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Rewrite:
    """The emulator's answer, with what `change` makes of its fields."""

    change: Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Junk:
    """An answer that is not AWS's, as a portal in between would give it."""

    status: int = 200
    body: bytes = b"<html>Please log in</html>"
    content_type: str = "text/html"


Fault = Answer | Cut | Delay | Hang | Rewrite | Junk


@dataclass(frozen=True)
class Call:
    """A call that came: AWS's name of the operation, its parameters as they were on the wire, its headers."""

    operation: str
    parameters: Mapping[str, Any]
    headers: Mapping[str, str]


class FaultProxy:
    """The proxy; `endpoint` is what boto3 is given."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._faults: dict[str, collections.deque[Fault]] = collections.defaultdict(collections.deque)
        self._calls: list[Call] = []
        self._hung: list[Hang] = []
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._most_at_once = 0
        self._at_once = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.request_queue_size = 128
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def queue(self, operation: str, *faults: Fault) -> None:
        """Do these to the next calls of `operation`, one each."""
        with self._lock:
            self._faults[operation].extend(faults)

    def clear(self) -> None:
        """Forget the faults that are still queued."""
        with self._lock:
            self._faults.clear()

    def calls(self, operation: str = "") -> list[Call]:
        """The calls that came so far, of one operation or of all."""
        with self._lock:
            return [call for call in self._calls if operation in {"", call.operation}]

    @property
    def most_at_once(self) -> int:
        """The most calls that were open at the same time."""
        with self._lock:
            return self._most_at_once

    def stop(self) -> None:
        """Let go of what hangs, close every connection, and end."""
        with self._lock:
            hung, sockets = list(self._hung), list(self._sockets)
        for fault in hung:
            fault.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _take(self, call: Call) -> Fault | None:
        with self._lock:
            self._calls.append(call)
            queued = self._faults[call.operation]
            fault = queued.popleft() if queued else None
            if isinstance(fault, Hang):
                self._hung.append(fault)
            return fault

    def _count(self, step: int) -> None:
        with self._lock:
            self._at_once += step
            self._most_at_once = max(self._most_at_once, self._at_once)

    def _connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)

    def _disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(connection)

    def _forward(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            upstream.request("POST", path, body, dict(headers))
            answer = upstream.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            upstream.close()


@contextlib.contextmanager
def running(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, stopped at the end."""
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.stop()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def setup(self) -> None:
            super().setup()
            proxy._connected(self.connection)

        def finish(self) -> None:
            proxy._disconnected(self.connection)
            with contextlib.suppress(OSError):  # the client may have left
                super().finish()

        def log_message(self, *_: object) -> None:
            """Nothing: the record of calls is enough."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            call = _read_call(self.headers, body)
            proxy._count(1)
            try:
                with contextlib.suppress(ConnectionError):  # the client may have left
                    self._serve(call, body)
            finally:
                proxy._count(-1)

        def _serve(self, call: Call, body: bytes) -> None:
            fault = proxy._take(call)
            match fault:
                case Answer():
                    self._send(fault.status, *_error(call, fault))
                    return
                case Junk():
                    self._send(fault.status, {"content-type": fault.content_type}, fault.body)
                    return
                case Cut(in_answer=False):
                    self._hang_up()
                    return
                case Delay():
                    time.sleep(fault.seconds)
                case Hang():
                    fault.arrived.set()
                    fault.let_go.wait()
            status, headers, answer = proxy._forward(self.path, self.headers, body)
            if isinstance(fault, Rewrite):
                answer = json.dumps(fault.change(json.loads(answer))).encode()
            if isinstance(fault, Cut):
                self._send(status, headers, answer, sent=len(answer) // 2)
                self._hang_up()
                return
            self._send(status, headers, answer)

        def _send(self, status: int, headers: Mapping[str, str], body: bytes, sent: int | None = None) -> None:
            self.send_response(status)
            for name in ("content-type", "x-amzn-requestid"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:sent])

        def _hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def _read_call(headers: Mapping[str, str], body: bytes) -> Call:
    target = headers.get("X-Amz-Target", "")
    if target:
        return Call(target.rpartition(".")[2], json.loads(body), dict(headers))
    fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return Call(fields.pop("Action", ""), fields, dict(headers))


def _error(call: Call, answer: Answer) -> tuple[dict[str, str], bytes]:
    """The error in the form of the call's service: JSON for KMS, XML for STS."""
    request = {"x-amzn-requestid": f"proxy-{answer.code}"}
    if "X-Amz-Target" in call.headers:
        body = json.dumps({"__type": answer.code, "message": answer.message}).encode()
        return {"content-type": "application/x-amz-json-1.1", **request}, body
    xml = f"<ErrorResponse><Error><Code>{answer.code}</Code><Message>{answer.message}</Message></Error></ErrorResponse>"
    return {"content-type": "text/xml", **request}, xml.encode()
