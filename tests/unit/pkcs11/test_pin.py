"""PINs come from files, variables and credentials, and show nowhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from privyseal_backends.interface import BackendError, CallerError, OperatorError
from privyseal_backends.pkcs11.pin import Pin, read_pin


@pytest.mark.parametrize(
    ("content", "pin"),
    [(b"1234", "1234"), (b"1234\n", "1234"), (b"1234\r\n", "1234"), (b" 12 34 \n", " 12 34 "), ("pïn".encode(), "pïn")],
)
@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_a_pin_file_loses_one_newline(tmp_path: Path, content: bytes, pin: str, form: str) -> None:
    file = tmp_path / "pin"
    file.write_bytes(content)
    assert read_pin(form.format(file)).reveal() == pin


def test_a_relative_file_is_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pin.txt").write_text("1234\n")
    monkeypatch.chdir(tmp_path)
    assert read_pin("file:pin.txt").reveal() == "1234"


def test_a_variable_and_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token-pin").write_text("abcd\n")
    monkeypatch.setenv("TOKEN_PIN", "user:pass word")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_pin("env:TOKEN_PIN").reveal() == "user:pass word"
    assert read_pin("credential:token-pin").reveal() == "abcd"


@pytest.mark.parametrize(
    ("source", "kind", "part"),
    [
        ("/etc/pin", CallerError, "URI"),
        ("1234", CallerError, "URI"),
        ("|/bin/pin", CallerError, "URI"),
        ("file:", CallerError, "URI"),
        ("file://elsewhere/pin", CallerError, "URI"),
        ("credential:../pin", CallerError, "URI"),
        ("credential:..", CallerError, "URI"),
        ("credential:pin", OperatorError, "PIN"),
        ("env:NO_SUCH_PIN_VARIABLE", OperatorError, "PIN"),
        ("file:/no/such/file", OperatorError, "PIN"),
        ("file:/", OperatorError, "PIN"),
    ],
)
def test_a_source_that_cannot_be_read(
    source: str, kind: type[BackendError], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(kind) as caught:
        read_pin(source)
    assert caught.value.part == part
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\n", b"47\n11", b"47\x0011", b"47\xff11", b"4711" * 300])
def test_a_file_that_holds_no_pin_does_not_show_in_the_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pin"
    file.write_bytes(content)
    with pytest.raises(OperatorError) as caught:
        read_pin(f"file:{file}")
    assert caught.value.part == "PIN"
    assert "47" not in f"{caught.value.message} {caught.value.remedy}".replace(str(file), "")
    assert caught.value.__context__ is None


def test_a_pin_hides_itself() -> None:
    pin = Pin("4711-secret")
    assert "4711" not in f"{pin} {pin!r} {[pin]} {vars(type(pin))}"
    with pytest.raises(TypeError):
        pickle.dumps(pin)
    assert pin.same_as(Pin("4711-secret"))
    assert not pin.same_as(Pin("4711-secreT"))
