"""ministack, an emulator of AWS: installed from PyPI into an environment of its own, and run for the tests.

It pins botocore, so it cannot live beside boto3. `ministack.lock` is made from `ministack.in` by

    uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
        --no-emit-find-links ministack.in -o ministack.lock
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

LOCK = Path(__file__).with_name("ministack.lock")
REGION = "eu-west-1"
ACCOUNT = "111122223333"
"""The account of the tests' keys: ministack takes an access key id of 12 digits for the account's number."""

_START_S = 60.0

# The emulator ends with its standard input, so that it never outlives the tests, however they end.
_MAIN = """
import os, sys, threading
def end_with_the_tests():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_with_the_tests, daemon=True).start()
sys.argv = ["ministack"]
from ministack.app import main
main()
"""


def version() -> str:
    """The locked version."""
    line = next(line for line in LOCK.read_text().splitlines() if line.startswith("ministack=="))
    return line.removeprefix("ministack==").rstrip(" \\")


def environment_folder() -> Path:
    """Where the environment is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "privyseal" / f"ministack-{version()}-py{sys.version_info.major}.{sys.version_info.minor}"


def install() -> Path:
    """The environment's interpreter, made when it is missing or of another lock; runs at once make it once."""
    folder = environment_folder()
    folder.mkdir(parents=True, exist_ok=True)
    python, done = folder / "venv" / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not python.exists() or not done.exists() or done.read_text() != wanted:
            done.unlink(missing_ok=True)
            shutil.rmtree(folder / "venv", ignore_errors=True)
            # Without a pip of its own: Debian's python3 has venv and lacks what would put one in.
            _run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
            pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
            _run(*pip, "install", "--quiet", "--only-binary", ":all:", "--require-hashes", "-r", str(LOCK))
            done.write_text(wanted)
    return python


def _run(*command: str) -> None:
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if made.returncode != 0:
        raise RuntimeError(f"ministack could not be installed: {(made.stderr or made.stdout)[-2000:]}")


@dataclass(frozen=True)
class Ministack:
    """A running emulator; `endpoint` is http://127.0.0.1:PORT."""

    endpoint: str

    def kms(self, region: str = REGION, account: str = ACCOUNT) -> KMSClient:
        """An administrator's client, for making keys and moving aliases."""
        return boto3.client(
            "kms",
            region_name=region,
            endpoint_url=self.endpoint,
            aws_access_key_id=account,
            aws_secret_access_key="an administrator's",
        )

    def create_key(
        self, spec: str = "RSA_2048", usage: str = "SIGN_VERIFY", *, alias: str = "", multi_region: bool = False
    ) -> str:
        """Make a key, and an alias (without `alias/`) for it where one is wanted; the key's ARN."""
        kms = self.kms()
        made = kms.create_key(KeySpec=spec, KeyUsage=usage, MultiRegion=multi_region)  # type: ignore[arg-type]
        arn = made["KeyMetadata"]["Arn"]
        if alias:
            kms.create_alias(AliasName=f"alias/{alias}", TargetKeyId=arn)
        return arn


@contextlib.contextmanager
def running() -> Iterator[Ministack]:
    """An emulator on a free loopback port, stopped at the end."""
    python = install()
    with tempfile.TemporaryDirectory(prefix="ministack-") as scratch:
        for _ in range(5):
            process, endpoint = _start(python, Path(scratch))
            if endpoint:
                break
            _stop(process)
        else:
            raise RuntimeError(f"ministack does not start: {(Path(scratch) / 'log').read_text()[-2000:]}")
        try:
            yield Ministack(endpoint)
        finally:
            _stop(process)


def _start(python: Path, scratch: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A process, and its endpoint once it answers; no endpoint when it ended, as when another took the port first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mark = secrets.token_hex(8)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "kms,sts,iam",
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{scratch}/no-docker",
        "MINISTACK_REGION": REGION,
        "MINISTACK_EDITION": mark,  # its health answer repeats it: so we know that the answer is ours
    }
    with (scratch / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(python), "-I", "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=environment,
        )
    endpoint = f"http://127.0.0.1:{port}"
    give_up_at = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < give_up_at:
        if _edition(endpoint) == mark:
            return process, endpoint
        time.sleep(0.05)
    return process, ""


def _edition(endpoint: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint}/_ministack/health", timeout=5) as answer:
            return str(json.load(answer).get("edition"))
    except (OSError, ValueError):
        return ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
