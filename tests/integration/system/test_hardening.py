"""A process of the service: private files, no core dumps, uvloop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
