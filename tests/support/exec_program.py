"""`privyseal exec` as a program, against a signing server of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.fakes.signing_server import SigningServer, signing_server
from tests.support.pki import CA

PROGRAM = (sys.executable, "-c", "from privyseal.cli import main; main()", "exec")

_LISTEN = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
LISTENING = (sys.executable, "-c", _LISTEN)
"""Before a command's path: it ignores no signal, though whoever runs the tests may (nohup, a job in the background)."""


@dataclass(frozen=True)
class Service:
    """A signing server with mutual TLS, and the variables that lead the program to it."""

    server: SigningServer
    variables: Mapping[str, str]


@contextmanager
def service(folder: Path, private_key_pem: bytes) -> Iterator[Service]:
    """Run a signing server with this key; its certificates are files in `folder`."""
    ca = CA()
    issued = ca.server()
    credentials = grpc.ssl_server_credentials(
        [(issued.key_pem, issued.chain_pem)], root_certificates=ca.pem, require_client_auth=True
    )
    cert, cert_key = ca.issue(dns=["build.example"]).write(folder, "build")
    with signing_server(private_key_pem, credentials=credentials) as server:
        variables = {
            "PRIVYSEAL_SERVER": server.address,
            "PRIVYSEAL_CA": str(ca.write(folder)),
            "PRIVYSEAL_CERT": str(cert),
            "PRIVYSEAL_CERT_KEY": str(cert_key),
        }
        yield Service(server, variables)


def arguments(flags: Sequence[str], words: Sequence[str | Path]) -> list[str]:
    """The program's whole command line."""
    return [*PROGRAM, *flags, "--", *map(str, words)]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment without the settings of whoever runs the tests, and with a temporary folder of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PRIVYSEAL_")}
    own.pop("NODE_OPTIONS", None)
    temporary = home / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**own, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "TMPDIR": str(temporary), **more}


def left_behind(home: Path) -> list[str]:
    """What the program left in the temporary folder. (Others' caches, node's among them, are not its own.)"""
    return sorted(path.name for path in (home / "tmp").glob("privyseal*"))


def run(
    words: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], flags: Sequence[str] = (), **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        arguments(flags, words),
        cwd=cwd,
        env=env,
        **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 200, **more},
    )
