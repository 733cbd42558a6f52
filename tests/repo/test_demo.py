"""`make demo` and `make serve`, run as they are from a copy of the scripts beside a small app."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.softhsm import find_module

CLIENT = str(Path(sys.executable).parent / "privyseal")
LEFT = ("app.zip", "app.zip_encrypted.zip", "sealed.json", "public.pem")


LISTENS_TO_HANGUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Tests that run under nohup pass its ignored SIGHUP on. Not a preexec_fn: that forks, which gRPC does not survive.


STOPPED_AS_IT_BEGINS_TO_WAIT = """
import ctypes, functools, os, subprocess, sys
import demo_service

def wait_after_the_signal(process, flags):
    # No Python runs between the two, so the signal's handler cannot: as when it comes just before the system call.
    stop = functools.partial(ctypes.PyDLL(None).kill, os.getpid(), 15)
    wait = functools.partial(os.waitpid, process.pid, flags)
    return list(map(functools.partial.__call__, [stop, wait]))[1]

demo_service.Interruption()
process = subprocess.Popen(["sleep", "60"])
process._try_wait = functools.partial(wait_after_the_signal, process)
try:
    demo_service.wait(process)
except KeyboardInterrupt:
    process.kill()
    print("interrupted")
"""


class Copy:
    """A checkout's scripts in a folder of their own, with a name that a shell has to quote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a 'checkout'"
        shutil.copytree(CHECKOUT / "scripts", self.folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        app = self.folder / "examples" / "app"
        app.mkdir(parents=True)
        (app / "index.html").write_text("<!doctype html><title>App</title>")
        (app / "noise.bin").write_bytes(os.urandom(50_000))
        self.demo = self.folder / ".demo"

    def start(self, script: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", LISTENS_TO_HANGUP, sys.executable, str(self.folder / "scripts" / script)],
            env={**os.environ, "PRIVYSEAL_SOFTHSM_MODULE": str(find_module()), "PRIVYSEAL_SERVER": "nowhere:1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str) -> str:
        process = self.start(script)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        return out

    def servers(self) -> list[str]:
        """The processes of privyseal-server that serve this copy's configuration."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "serve" in words and str(self.demo / "service" / "server.toml") in words:
                    found.append(entry.name)
        return found


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


@contextlib.contextmanager
def serving(copy):
    """`make serve`, stopped as `kill` and make do; its exports as a shell reads them."""
    process = copy.start("serve.py")
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("export PRIVYSEAL_SERVER="):
                break
        yield process, lines
    finally:
        process.terminate()
        process.communicate(timeout=200)


def as_a_shell_reads(lines):
    assert all(re.match(r"export PRIVYSEAL_[A-Z_]+=", line) for line in lines)
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def client(exports, *arguments):
    return subprocess.run(
        [CLIENT, *arguments],
        cwd="/",
        env={**os.environ, **exports},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_demo_seals_opens_and_cleans_up(copy):
    output = copy.run("demo.py")

    assert len(re.findall(r"^  \S.* [0-9]+\.[0-9]{2} s$", output, re.MULTILINE)) == 9
    assert "opened.zip has the bytes of app.zip" in output
    assert all((copy.demo / name).stat().st_size > 0 for name in LEFT)
    assert set(json.loads((copy.demo / "sealed.json").read_text())) == {"checksum", "filename", "ivSessionKey"}
    assert (copy.demo / "public.pem").read_text().startswith("-----BEGIN RSA PUBLIC KEY-----\n")
    assert copy.servers() == []


def test_the_demo_can_be_run_again(copy):
    copy.run("demo.py")
    before = (copy.demo / "public.pem").read_bytes(), (copy.demo / "app.zip").read_bytes()
    copy.run("demo.py")
    after = (copy.demo / "public.pem").read_bytes(), (copy.demo / "app.zip").read_bytes()

    assert before[0] != after[0], "each run makes a key of its own"
    assert before[1] == after[1], "the zip is the same each time"


def test_two_checkouts_at_once(tmp_path):
    copies = [Copy(tmp_path / name) for name in ("one", "two")]
    runs = [each.start("demo.py") for each in copies]
    ended = [(run.communicate(timeout=200), run.returncode) for run in runs]

    assert [code for _, code in ended] == [0, 0], ended
    assert len({(each.demo / "public.pem").read_bytes() for each in copies}) == 2


def test_two_demos_in_one_checkout_take_turns(copy):
    runs = [copy.start("demo.py") for _ in range(2)]
    ended = [(run.communicate(timeout=200), run.returncode) for run in runs]

    assert [code for _, code in ended] == [0, 0], ended


def test_private_files_are_private(copy):
    copy.run("demo.py")
    mode = {path: stat.S_IMODE(path.stat().st_mode) for path in copy.demo.rglob("*")}
    secret = [path for path in mode if path.name == "pin.txt" or path.name.endswith("-key.pem")]

    assert len(secret) == 4
    assert {mode[path] for path in secret} == {0o600}
    assert {mode[path] for path in mode if path.is_dir() and path.parent == copy.demo} == {0o700}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_running(copy, number):
    process = copy.start("demo.py")
    for line in process.stdout:
        if "mutual TLS on" in line:
            break
    assert copy.servers()
    process.send_signal(number)
    _, err = process.communicate(timeout=200)

    assert process.returncode == 130
    assert err == "demo: stopped\n"
    assert copy.servers() == []


def test_a_killed_demo_takes_the_service_with_it(copy):
    process = copy.start("demo.py")
    for line in process.stdout:
        if "mutual TLS on" in line:
            break
    process.kill()
    process.communicate(timeout=200)
    until = time.monotonic() + 30
    while copy.servers() and time.monotonic() < until:
        time.sleep(0.05)

    assert copy.servers() == []


def test_a_failed_step_is_one_sentence(copy):
    (copy.folder / "scripts" / "make_token.py").write_text("raise SystemExit('no such token today')")
    process = copy.start("demo.py")
    out, err = process.communicate(timeout=200)

    assert process.returncode == 1
    assert re.search(r"make a SoftHSM token +failed", out)
    assert re.fullmatch(r"demo: python\S* failed with exit code 1: no such token today\n", err)


def test_the_exports_of_serve_make_privyseal_work(copy):
    with serving(copy) as (_, lines):
        exports = as_a_shell_reads(lines)
        listed = client(exports, "key", "list")

        assert [line.split("=")[0].removeprefix("export PRIVYSEAL_") for line in lines] == [
            "CA", "CERT", "CERT_KEY", "KEY", "SERVER",
        ]  # fmt: skip
        assert all(Path(exports[f"PRIVYSEAL_{name}"]).is_absolute() for name in ("CA", "CERT", "CERT_KEY"))
        assert listed.returncode == 0, listed.stderr
        assert "demo" in listed.stdout


def test_a_shell_takes_the_exports(copy):
    with serving(copy) as (_, lines):
        shell = subprocess.run(
            ["sh", "-c", "".join(lines) + f'exec "{CLIENT}" key show --format pkcs1'],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

        assert shell.stdout == (copy.demo / "service" / "public.pem").read_text(), shell.stderr


def test_serve_ends_well_and_keeps_its_key(copy):
    keys = []
    for _ in range(2):
        with serving(copy) as (process, lines):
            keys.append(client(as_a_shell_reads(lines), "key", "show", "--format", "pkcs1").stdout)
            host, _, port = as_a_shell_reads(lines)["PRIVYSEAL_SERVER"].rpartition(":")
        assert process.returncode == 0
        assert copy.servers() == []
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0

    assert keys[0] == keys[1] != ""


def test_a_demo_beside_serve_uses_its_key_and_leaves_it_alone(copy):
    with serving(copy) as (process, lines):
        output = copy.run("demo.py")
        listed = client(as_a_shell_reads(lines), "key", "list")

        assert "make serve is running" in output
        assert listed.returncode == 0, listed.stderr
        assert process.poll() is None
        assert (copy.demo / "public.pem").read_bytes() == (copy.demo / "service" / "public.pem").read_bytes()


def test_a_signal_that_comes_just_before_the_wait_ends_it():
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_AS_IT_BEGINS_TO_WAIT],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "scripts")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_a_moved_checkout_goes_on(copy, tmp_path):
    with serving(copy):
        pass
    copy.folder = copy.folder.rename(tmp_path / "moved")
    copy.demo = copy.folder / ".demo"
    with serving(copy) as (_, lines):
        assert client(as_a_shell_reads(lines), "key", "list").returncode == 0
