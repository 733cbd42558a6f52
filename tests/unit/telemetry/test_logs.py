"""The log: one line for each event, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Literal

import pytest

from privyseal_service.config.log import LogConfig
from privyseal_service.domain.caller import Caller, Proof
from privyseal_service.domain.decisions import DecisionBuilder, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.domain.operation_names import Operation
from privyseal_service.telemetry.decision_log import LogRecorder
from privyseal_service.telemetry.logs import make_handler


def written(form: Literal["console", "json"], record: logging.LogRecord) -> str:
    stream = io.StringIO()
    make_handler(LogConfig(format=form), stream).emit(record)
    return stream.getvalue()


def event(message: str, *args: object, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("privyseal", logging.INFO, __file__, 1, message, args, None)
    record.__dict__.update(more)
    return record


EVIL = "a\nb\x1b[31m\u2028{}\"'"


def test_json() -> None:
    text = written("json", event("said %s", EVIL, fields={"key": EVIL, "n": 1}))
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["message"], line["key"], line["n"], line["level"]) == (f"said {EVIL}", EVIL, 1, "info")
    assert line["time"].endswith("Z")


def test_console() -> None:
    text = written("console", event("said %s", EVIL, fields={"key": EVIL, "n": 1}))
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert text.isascii()
    assert text.endswith(" n=1\n")


@pytest.mark.parametrize("form", ["console", "json"])
def test_exceptions_are_kept(form: Literal["console", "json"]) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("p", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    assert "ValueError: why" in written(form, record)


def test_a_field_cannot_take_the_place_of_another() -> None:
    line = json.loads(written("json", event("real", fields={"message": "forged", "level": "debug", "time": "1"})))
    assert (line["message"], line["level"]) == ("real", "info")


async def test_a_decision_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    builder = DecisionBuilder(request_id="id-1", peer="ipv4:1.2.3.4:5", operation=Operation.SIGN_CHECKSUM, key=EVIL)
    builder.set_caller(Caller("dns:a.example", Proof("mtls", {"certificate": "ab"})))
    await LogRecorder().record(builder.build(Outcome.DENIED, Code.PERMISSION_DENIED, "NO_GRANT"))
    (record,) = caplog.records
    line = json.loads(written("json", record))
    assert line["message"] == "denied"
    assert line["code"] == "PERMISSION_DENIED"
    assert line["caller"] == "dns:a.example"
    assert line["proof"] == {"method": "mtls", "certificate": "ab"}
    assert line["key"] == EVIL
    assert "grant" not in line
