"""The wording of the messages of processes, listeners and the status socket: each stands here, and only here."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from privyseal_backends.interface import OperatorError
from privyseal_service.keys.keyring import KeyringError
from privyseal_service.keys.pin_lockout import RefusedPin
from privyseal_service.runtime.messages import MalformedEventError, StartFailed, decode_event
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.runtime.worker_process import WorkerProcess
from privyseal_service.system.sockets import ListenError
from privyseal_service.telemetry.status_socket import StatusError, read_status

SHARED = (
    "cannot listen at 127.0.0.1:1: is it an address of this machine, and does nobody but this user's processes listen "
    "there?"
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ListenError.at("127.0.0.1:1"),
            "cannot listen at 127.0.0.1:1: is it taken, or not an address of this machine?",
        ),
        (
            ListenError.at("127.0.0.1:1", shared=True),
            SHARED,
        ),
        (
            start_error(KeyringError("demo", OperatorError("PIN", "the token refused it", "correct it"))),
            "key 'demo': PIN: the token refused it; correct it",
        ),
        (
            RefusedPin("pkcs11:token=t", "the token 't' refused the PIN", "correct it").error(),
            "PIN: the token 't' refused the PIN; correct it",
        ),
        (start_error(ZeroDivisionError("x")), "internal error, ZeroDivisionError: x"),
    ],
)
def test_why_a_service_cannot_start(error: Exception, sentence: str) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize(
    ("code", "failure", "words"),
    [
        (3, None, "ended with exit code 3"),
        (-9, None, "was ended by SIGKILL"),
        (-40, None, "was ended by signal 40"),
        (1, StartFailed("key 'demo': no", 1), "could not start (key 'demo': no)"),
    ],
)
def test_how_a_worker_ended(code: int, failure: StartFailed | None, words: str) -> None:
    worker = WorkerProcess(0, Mock())
    worker.start_failure = failure
    assert worker.describe_end(code) == words


def test_a_malformed_event() -> None:
    with pytest.raises(MalformedEventError) as caught:
        decode_event(b"{}")
    assert str(caught.value) == "it sent an event of no known form (KeyError)"


def test_no_service_answers(tmp_path: Path) -> None:
    with pytest.raises(StatusError) as caught:
        read_status(tmp_path)
    assert str(caught.value) == f"no service runs with the state folder {tmp_path}"
    (tmp_path / "status").write_bytes(b"")
    with pytest.raises(StatusError) as caught:
        read_status(tmp_path)
    assert str(caught.value) == f"no service runs with the state folder {tmp_path}"
