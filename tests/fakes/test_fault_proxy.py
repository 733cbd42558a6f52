"""What the fault proxy promises, shown with a plain upstream and http.client."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.fakes import fault_proxy
from tests.fakes.fault_proxy import Answer, Cut, Delay, FaultProxy, Hang, Junk, Rewrite, throttled

ANSWER = {"KeyId": "the key", "Signature": "AAAA"}


class Upstream(BaseHTTPRequestHandler):
    """Answers every call with `ANSWER` and the body that came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        came = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.dumps({**ANSWER, "came": came}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("x-amzn-requestid", "of-the-upstream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with fault_proxy.running(f"http://127.0.0.1:{server.server_address[1]}") as running:
        yield running
    server.shutdown()
    server.server_close()
    thread.join()


def call(proxy: FaultProxy, operation: str = "Sign", body: str = "{}") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)
    try:
        connection.request("POST", "/", body, {"X-Amz-Target": f"TrentService.{operation}"})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("x-amzn-requestid", ""), answer.read()
    finally:
        connection.close()


def test_a_call_without_a_fault_passes_and_is_recorded(proxy: FaultProxy) -> None:
    status, request_id, body = call(proxy, body='{"KeyId": "a"}')
    assert (status, request_id) == (200, "of-the-upstream")
    assert json.loads(body) == {**ANSWER, "came": '{"KeyId": "a"}'}
    (recorded,) = proxy.calls()
    assert (recorded.operation, recorded.parameters) == ("Sign", {"KeyId": "a"})


def test_faults_are_for_one_call_of_their_operation_in_order(proxy: FaultProxy) -> None:
    proxy.queue("Sign", throttled(), Answer(500, "KMSInternalException"))
    assert call(proxy, "Decrypt")[0] == 200
    status, request_id, body = call(proxy)
    assert (status, request_id) == (400, "proxy-ThrottlingException")
    assert json.loads(body)["__type"] == "ThrottlingException"
    assert call(proxy)[0] == 500
    assert call(proxy)[0] == 200
    proxy.queue("Sign", throttled())
    proxy.clear()
    assert call(proxy)[0] == 200
    assert len(proxy.calls("Sign")) == 4
    assert len(proxy.calls("Decrypt")) == 1


def test_cut_connections(proxy: FaultProxy) -> None:
    proxy.queue("Sign", Cut(), Cut(in_answer=True))
    with pytest.raises(ConnectionError):
        call(proxy)
    with pytest.raises(http.client.IncompleteRead):
        call(proxy)


def test_a_hang_lasts_until_it_is_let_go(proxy: FaultProxy) -> None:
    hang, answers = Hang(), []
    proxy.queue("Sign", hang)
    caller = threading.Thread(target=lambda: answers.append(call(proxy)[0]))
    caller.start()
    assert hang.arrived.wait(10)
    assert not answers
    hang.let_go.set()
    caller.join()
    assert answers == [200]


def test_answers_that_are_changed_late_or_not_aws(proxy: FaultProxy) -> None:
    proxy.queue("Sign", Rewrite(lambda answer: {"KeyId": answer["KeyId"] + "!"}), Junk(), Delay(0.01))
    assert json.loads(call(proxy)[2]) == {"KeyId": "the key!"}
    assert call(proxy)[2] == b"<html>Please log in</html>"
    assert json.loads(call(proxy)[2])["KeyId"] == "the key"


def test_errors_of_sts_are_xml(proxy: FaultProxy) -> None:
    proxy.queue("AssumeRole", Answer(403, "AccessDenied"))
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)
    connection.request("POST", "/", "Action=AssumeRole&RoleArn=a%3Ab")
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"<Code>AccessDenied</Code>" in answer.read()
    connection.close()
    assert proxy.calls("AssumeRole")[0].parameters == {"RoleArn": "a:b"}


def test_it_counts_the_calls_that_are_open_at_once(proxy: FaultProxy) -> None:
    hangs = [Hang() for _ in range(3)]
    proxy.queue("Sign", *hangs)
    callers = [threading.Thread(target=call, args=(proxy,)) for _ in hangs]
    for caller in callers:
        caller.start()
    assert all(hang.arrived.wait(10) for hang in hangs)
    for hang in hangs:
        hang.let_go.set()
    for caller in callers:
        caller.join()
    assert proxy.most_at_once == 3
