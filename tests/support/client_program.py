"""The `privyseal` program of a test, in a clean environment."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from privyseal import cli
from tests.fakes.signing_server import SigningServer

PROGRAM = Path(sys.executable).with_name("privyseal")


DEFAULT_SIGNALS = "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)"
"""For `Program.start_after`: whoever runs the tests may ignore them, as a shell's job in the background does."""


class Program:
    """The real `privyseal`, in a folder of its own, with nothing of the environment but what a test gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            # Coverage and such of the test run itself.
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        }

    def use(self, server: SigningServer) -> None:
        """Point the program at a server without TLS."""
        self.environ["PRIVYSEAL_SERVER"] = f"http://{server.address}"

    def start(self, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([str(PROGRAM), *map(str, arguments)], cwd=self.folder, env=self.environ, **settings)

    def run(self, *arguments: object, **options: object) -> Result:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=200)
        return Result(process.returncode, (out or b"").decode(), (err or b"").decode())

    def run_after(self, prelude: str, *arguments: object, **options: object) -> Result:
        """Run the program in a process that first does `prelude` in Python, such as setting a limit."""
        process = self.start_after(prelude, *arguments, **options)
        out, err = process.communicate(timeout=200)
        return Result(process.returncode, (out or b"").decode(), (err or b"").decode())

    def start_after(self, prelude: str, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
        # No preexec_fn: it would run Python between fork and exec in a process that has gRPC's threads.
        code = f"import os, resource, signal, sys\n{prelude}\nos.execv(sys.argv[1], sys.argv[1:])"
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-c", code, str(PROGRAM), *map(str, arguments)],
            cwd=self.folder,
            env=self.environ,
            **settings,
        )

    def files(self) -> set[str]:
        """All names in the folder, hidden ones too."""
        return {path.name for path in self.folder.iterdir()}


class ProgramHere(Program):
    """The program's code in this process, for the tests whose time would go into starting another."""

    def run(self, *arguments: object) -> Result:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with (
                mock.patch.dict(os.environ, self.environ, clear=True),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                code = cli._run([str(argument) for argument in arguments])
        finally:
            os.chdir(before)
        out.flush()
        return Result(code, out.buffer.getvalue().decode(), err.getvalue())


@dataclass(frozen=True)
class Result:
    """What a run of the program did."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one error line on stderr, after the warnings that may stand before it."""
        lines = [line for line in self.err.splitlines() if not line.startswith("Warning:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert lines[0].startswith("Error: "), self.err
        return lines[0]
