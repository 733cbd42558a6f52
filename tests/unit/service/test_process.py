"""The process: private files, no core dumps, and the word to systemd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from privyseal_service.system.systemd import notify

HARDENED = """
import ctypes, json, os, resource
from privyseal_service.system.hardening import harden
harden()
print(json.dumps([os.umask(0), resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)]))
"""


def test_hardened() -> None:
    done = subprocess.run([sys.executable, "-c", HARDENED], capture_output=True, text=True, check=True)
    umask, core, dumpable = json.loads(done.stdout)
    assert (umask, core) == (0o077, [0, 0])
    assert dumpable == 0


LOOP = """
import asyncio, json, os
from privyseal_service.system.hardening import run_service
async def look():
    files = [each for each in map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd")) if os.path.lexists(each)]
    return type(asyncio.get_running_loop()).__module__, list(map(os.readlink, files))
print(json.dumps(run_service(look())))
"""


def test_the_service_runs_on_uvloop_without_an_io_uring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_USE_IO_URING", raising=False)
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    loop, open_files = json.loads(done.stdout)
    assert loop == "uvloop"
    assert any("eventpoll" in name for name in open_files)
    assert not [name for name in open_files if "io_uring" in name]


def test_a_start_without_issuers_loads_no_code_for_tokens() -> None:
    code = (
        "import sys, privyseal_service.runtime.service, privyseal_service.runtime.worker; print('jwt' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


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
