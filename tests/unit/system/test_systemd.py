"""Notifications to systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from privyseal_service.system.systemd import notify


@pytest.mark.parametrize("form", ["path", "abstract"])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    name = str(tmp_path / "n") if form == "path" else f"@privyseal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name if form == "path" else "\0" + name[1:])
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_a_socket_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    assert "systemd could not be notified of READY=1: No such file or directory" in caplog.text


def test_nobody_to_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
