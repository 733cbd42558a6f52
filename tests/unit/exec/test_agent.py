"""The signing agent: which typed operation a length means, and what never leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal.errors import Code, PermissionDeniedError, PrivysealError
from privyseal.exec.agent import Agent, RefusedError, SignChecksum, WrapSessionKey, operation_for
from privyseal.model import SignatureScheme
from tests.support.signers import VECTORS, SoftwareSigner

DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


class Line:
    """A connection as the hook makes one."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, line: bytes) -> dict[str, str]:
        self._socket.sendall(line + b"\n")
        return json.loads(self._file.readline())

    def ask(self, data: bytes, cli: object = "8.68.1") -> dict[str, str]:
        return self.send(json.dumps({"data": base64.b64encode(data).decode(), "cli": cli}).encode())


@pytest.fixture
def signer():
    return SoftwareSigner()


@pytest.fixture
def versions():
    return []


@pytest.fixture
def agent(tmp_path, signer, versions):
    with Agent(tmp_path / "agent", signer, signer.public_key, versions.append) as agent:
        yield agent


@pytest.fixture
def line(tmp_path, agent):
    with closing(Line(tmp_path / "agent")) as line:
        yield line


@pytest.mark.parametrize("name", ["capgo-v2", "capgo-v3"])
def test_every_operation_of_the_vectors_is_answered_byte_for_byte(tmp_path, name):
    vector = json.loads((VECTORS / name / "vector.json").read_text())
    signer = SoftwareSigner(name)
    with (
        Agent(tmp_path / "agent", signer, signer.public_key, lambda _: None) as agent,
        closing(Line(tmp_path / "agent")) as line,
    ):
        for what in ("session_key", "checksum"):
            answer = line.ask(bytes.fromhex(vector[f"rsa_input_{what}_hex"]))
            assert base64.b64decode(answer["signature"]).hex() == vector[f"rsa_output_{what}_hex"]
        assert (agent.signed, agent.failed) == (2, 0)
    assert signer.asked == [
        ("wrap", bytes.fromhex(vector["session_key_hex"])),
        (name, bytes.fromhex(vector["plain_sha256_hex"])),
    ]


REFUSED = {
    **{f"{length} bytes": bytes(length) for length in (0, 1, 15, 17, 20, 24, 31, 33, 47, 49, 51, 64, 245, 256)},
    "48 bytes that are no hex": bytes(48),
    "48 bytes that are upper-case hex": base64.b64decode("AB" * 32),
    "a DigestInfo": DIGEST_INFO + hashlib.sha256(b"a token").digest(),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_nothing_else_reaches_the_signer(line, signer, agent, data):
    answer = line.ask(data)
    assert set(answer) == {"error"}
    assert f"{len(data)} bytes are neither" in answer["error"]
    assert signer.asked == []
    assert (agent.signed, agent.failed) == (0, 1)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_operations_are_of_the_lengths_that_capgo_has(data):
    try:
        operation = operation_for(data)
    except RefusedError:
        assert len(data) not in {16, 32}
    else:
        assert len(data) in {16, 32}
        assert isinstance(operation, WrapSessionKey if len(data) == 16 else SignChecksum)


@given(st.binary(min_size=32, max_size=32))
def test_the_checksum_of_v2_is_decoded_to_its_32_bytes(checksum):
    assert operation_for(base64.b64decode(checksum.hex())) == SignChecksum(SignatureScheme.CAPGO_V2, checksum)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"not json",
        b"\xff",
        b'{"data": 16, "cli": null}',
        b'{"data": "%%%", "cli": null}',
        b'{"data": "AAAAAAAAAAAAAAAAAAAAAA==", "cli": 8}',
        b'{"data": "AAAAAAAAAAAAAAAAAAAAAA=="}',
    ],
)
def test_what_the_hook_does_not_send_is_refused(line, signer, text):
    assert "is not one of `privyseal exec`'s hook" in line.send(text)["error"]
    assert signer.asked == []


def test_a_line_without_end_is_refused(line, signer):
    assert "is not one of" in line.send(b"x" * 5000)["error"]
    assert signer.asked == []


def test_only_this_user_may_ask_and_the_socket_goes_with_the_agent(tmp_path, signer):
    path = tmp_path / "agent"
    with Agent(path, signer, signer.public_key, lambda _: None):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert not path.exists()


def test_an_error_of_the_service_is_told_in_its_own_words(line, signer, agent):
    signer.error = PermissionDeniedError("no such key, or no grant for it", code=Code.PERMISSION_DENIED)
    assert line.ask(bytes(32))["error"] == str(signer.error)
    signer.error = None
    assert "signature" in line.ask(bytes(32))
    assert (agent.signed, agent.failed) == (1, 1)


def test_a_defect_is_told_without_its_text(line, signer):
    signer.error = RuntimeError("the session key is 00112233")
    assert line.ask(bytes(16))["error"] == "the signing agent failed (RuntimeError)"


def test_a_signature_that_does_not_verify_is_dropped(line, signer, agent):
    signer.xor = 1
    answer = line.ask(bytes(32))
    assert set(answer) == {"error"}
    assert "does not verify" in answer["error"]
    assert agent.signed == 0


def test_each_version_of_the_cli_is_approved_once(line, versions):
    for cli in ("8.68.1", "8.68.1", None, "9.0.0", None):
        line.ask(bytes(32), cli)
    assert versions == ["8.68.1", None, "9.0.0"]


def test_a_version_that_is_not_approved_signs_nothing(tmp_path, signer):
    def refuse(version):
        raise PrivysealError(f"not {version}")

    with (
        Agent(tmp_path / "agent", signer, signer.public_key, refuse),
        closing(Line(tmp_path / "agent")) as line,
    ):
        assert line.ask(bytes(32))["error"] == "not 8.68.1"
        assert line.ask(bytes(32))["error"] == "not 8.68.1"
    assert signer.asked == []


def test_several_processes_ask_at_once(tmp_path, signer, agent):
    def ask(number):
        checksum = hashlib.sha256(bytes([number])).digest()
        with closing(Line(tmp_path / "agent")) as line:
            answers = [line.ask(checksum) for _ in range(5)]
        expected = base64.b64encode(signer.sign_checksum(SignatureScheme.CAPGO_V3, checksum)).decode()
        return all(answer == {"signature": expected} for answer in answers)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(6)))
    assert agent.signed == 30


def test_a_session_key_is_not_in_the_repr():
    assert repr(operation_for(b"0123456789abcdef")) == "WrapSessionKey()"
