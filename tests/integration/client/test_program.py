"""The rest of the real `privyseal`: keys, checksums, help, completion, what a terminal shows, how failures are told."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import grpc
import pytest

from privyseal import capgo, cli
from privyseal._terminal import Progress
from privyseal.commands import privyseal as group
from privyseal.model import SignatureScheme
from privyseal.verification import check_signature
from tests.fakes.signing_server import Fault
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3

CHECKSUM = VECTOR_V3.facts["plain_sha256_hex"]


@pytest.fixture
def served(program, server):
    program.use(server)
    return program


class TestKeys:
    def test_list(self, served):
        result = served.run("key", "list")
        assert result.code == 0
        assert [line.split() for line in result.out.splitlines()] == [
            ["NAME", "STATE", "KEY", "ID", "SCHEMES"],
            ["demo", "serving", VECTOR_V3.facts["key_id"], "capgo", "capgo-v2", "capgo-v3"],
        ]

    def test_list_of_nothing(self, served, server):
        server.hidden = True
        result = served.run("key", "list")
        assert (result.code, result.out) == (0, "")
        assert "There is no key that you may use" in result.err
        assert served.run("key", "list", "--json").out == "[]\n"

    def test_list_json(self, served):
        (key,) = json.loads(served.run("key", "list", "--json").out)
        assert key == json.loads(served.run("key", "show", "demo", "--format", "json").out)
        assert key["name"] == "demo"
        assert key["state"] == "serving"
        assert key["wrap_schemes"] == ["capgo"]
        assert key["signature_schemes"] == ["capgo-v2", "capgo-v3"]
        assert key["public_key"]["capgo_key_id"] == VECTOR_V3.facts["key_id"]
        assert key["custody"]["export"] == {"value": "possible", "reasons": ["anybody can read the file"]}
        assert key["custody"]["evidence"] == [{"name": "CKA_SENSITIVE", "value": "false"}]

    @pytest.mark.parametrize("name", [(), ("demo",)])
    def test_show(self, served, name):
        result = served.run("key", "show", *name)
        assert result.code == 0
        for line in (
            "Name          demo",
            "State         serving",
            "Algorithm     RSA-2048",
            "Protection    software",
            "              - the key is in the memory of a test",
            "Origin        imported",
            "Export        possible",
            "Evidence      CKA_SENSITIVE = false",
        ):
            assert line in result.out.splitlines()

    def test_show_what_was_not_opened(self, served, server):
        server.show_public_key = False
        assert "Key version  not known yet" in served.run("key", "show").out
        result = served.run("key", "show", "--format", "pkcs1")
        assert result.code == 3
        assert "has not opened the key demo yet" in result.sentence()

    @pytest.mark.parametrize("form", ["capgo", "pkcs1"])
    def test_pkcs1(self, served, form):
        assert served.run("key", "show", "demo", "--format", form).out == VECTOR_V3.public_pem.read_text()

    def test_spki(self, served):
        pem = served.run("key", "show", "demo", "--format", "spki").out
        assert pem == capgo.spki_pem(capgo.load_public_key(VECTOR_V3.public_pem.read_bytes()))

    def test_key_that_is_not_for_capgo(self, served, server):
        server.schemes = ()
        result = served.run("key", "show", "--format", "capgo")
        assert result.code == 1
        assert "may seal for Capgo; use --format pkcs1" in result.sentence()

    def test_forms_of_two_keys(self, served, server):
        server.pkcs1_pem = VECTOR_V2.public_pem.read_text()
        result = served.run("key", "show", "--format", "pkcs1")
        assert (result.code, result.out) == (1, "")
        assert "different public keys" in result.sentence()

    def test_another_key(self, served):
        result = served.run("key", "show", "other")
        assert result.code == 1
        assert "no such key, or no grant for it; check the key's name with `privyseal key list`" in result.sentence()

    def test_configured_key(self, served, server):
        served.environ["PRIVYSEAL_KEY"] = "demo"
        served.run("key", "show")
        assert server.calls[0].request.name == "demo"


class TestChecksums:
    @pytest.mark.parametrize("scheme", SignatureScheme)
    def test_sign(self, served, scheme):
        result = served.run("checksum", "sign", CHECKSUM, "--scheme", scheme.value)
        assert result.code == 0, result.err
        text = result.out.rstrip("\n")
        signature = bytes.fromhex(text) if scheme is SignatureScheme.CAPGO_V3 else base64.b64decode(text, validate=True)
        public_key = capgo.load_public_key(VECTOR_V3.public_pem.read_bytes())
        check_signature(public_key, scheme, bytes.fromhex(CHECKSUM), signature)

    def test_known_answer(self, served):
        hexed = served.run("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3")
        assert hexed.out == VECTOR_V3.checksum + "\n"
        based = served.run("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3", "--encoding", "base64")
        assert base64.b64decode(based.out) == bytes.fromhex(VECTOR_V3.checksum)

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (("0" * 63, "--scheme", "capgo-v3"), 1, "HEX is not a SHA-256"),
            ((CHECKSUM, "--scheme", "sha1"), 2, "--scheme"),
            ((CHECKSUM,), 2, "Missing option '--scheme'"),
            ((CHECKSUM, "--scheme", "capgo-v3", "--key", ".capgo_key_v2"), 2, "--key is the name of a key"),
        ],
    )
    def test_refused(self, served, server, arguments, code, says):
        result = served.run("checksum", "sign", *arguments)
        assert (result.code, result.out) == (code, "")
        assert says in result.sentence()
        assert server.calls == []

    def test_wrong_signature(self, served, server):
        server.corrupt.add("SignChecksum")
        result = served.run("checksum", "sign", CHECKSUM, "--scheme", "rsassa-pss-sha256")
        assert (result.code, result.out) == (1, "")
        assert "a signature that does not verify" in result.sentence()


def commands(command: click.Command, path: tuple[str, ...] = ()):
    """Every command below this one, with its path."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.get_command(click.Context(command), name), (*path, name))


COMMANDS = dict(commands(group))


class TestHelp:
    @pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
    def test_of_every_command(self, path):
        context = click.Context(COMMANDS[path], info_name=" ".join(("privyseal", *path)))
        text = COMMANDS[path].get_help(context)
        assert text.startswith("Usage: ")
        if not isinstance(COMMANDS[path], click.Group):
            assert "Example" in text

    def test_program(self, program):
        result = program.run("--help")
        assert (result.code, result.err) == (0, "")
        for word in ("bundle", "checksum", "completion", "exec", "key", "Exit codes: 0 done", "PRIVYSEAL_SERVER"):
            assert word in result.out

    def test_version(self, program):
        assert program.run("--version").out == program.run("-V").out == "privyseal 0.1.0\n"

    @pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("bundle", "encrypt", "--help")])
    def test_no_heavy_imports(self, program, arguments):
        code = (
            "import sys\nfrom privyseal.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
            "    print(sorted(m for m in sys.modules if m.partition('.')[0] in"
            " {'grpc', 'google', 'cryptography', 'asyncio', 'ssl', 'tomllib'} or m == 'importlib.metadata'),"
            " file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=program.environ, timeout=200
        )
        assert done.returncode == 0
        assert done.stderr == "[]\n"

    @pytest.mark.parametrize("arguments", [(), ("bundle",), ("key",)])
    def test_without_a_command(self, program, arguments):
        result = program.run(*arguments)
        assert result.code == 2
        assert "Usage: " in result.err

    @pytest.mark.parametrize("arguments", [("seal",), ("bundle", "seal"), ("--wrong",)])
    def test_unknown(self, program, arguments):
        result = program.run(*arguments)
        assert (result.code, result.out) == (2, "")
        assert "--help`" in result.sentence()


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_script(self, program, shell):
        result = program.run("completion", shell)
        assert result.code == 0, result.err
        assert "_PRIVYSEAL_COMPLETE" in result.out

    def test_bash_completes(self, program):
        script = program.run("completion", "bash").out
        line = (
            'COMP_WORDS=(privyseal bundle enc); COMP_CWORD=2; _privyseal_completion privyseal; echo "${COMPREPLY[@]}"'
        )
        folder = Path(sys.executable).parent
        environ = {**program.environ, "PATH": f"{folder}:{program.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True, env=environ, timeout=200
        )
        assert done.stdout == "encrypt\n"

    def test_unknown_shell(self, program):
        assert program.run("completion", "tcsh").code == 2


class TestTerminal:
    def on_terminal(self, program, *arguments, **environ):
        """What the program writes on a terminal that is its stderr, and its stdout."""
        program.environ |= environ
        master, slave = pty.openpty()
        process = program.start(*arguments, stderr=slave)
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not piece:
                break
            shown += piece
        out, _ = process.communicate(timeout=200)
        os.close(master)
        return shown.decode(), out.decode()

    def test_colour(self, program):
        shown, _ = self.on_terminal(program, "key", "list")
        assert shown.startswith("\x1b[31m\x1b[1mError:\x1b[0m no signing service")

    @pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_no_colour(self, program, environ):
        shown, _ = self.on_terminal(program, "key", "list", **environ)
        assert shown.startswith("Error: no signing service")

    def test_empty_no_color_is_not_set(self, program):
        assert "\x1b[31m" in self.on_terminal(program, "key", "list", NO_COLOR="")[0]

    def test_control_characters(self, served, server):
        server.fail("ListKeys", Fault(grpc.StatusCode.INTERNAL, "bad\x1b[2J\x07 news"))
        shown, _ = self.on_terminal(served, "key", "list", NO_COLOR="1")
        assert "\x1b" not in shown
        assert "\x07" not in shown

    def test_control_characters_of_a_key_store(self, served, server):
        server.evidence = ("CKA_LABEL", "a\x1b[2Jb\nsecond\nthird")
        assert "Evidence      CKA_LABEL = a [2Jb … (2 more lines)" in served.run("key", "show").out


class TestProgress:
    """The bar itself: a run that takes long enough to show it would be a slow test."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr("privyseal._terminal.time.monotonic", lambda: now[0])
        return now

    @staticmethod
    def terminal(monkeypatch, *, isatty=True):
        """A stderr that keeps what is written to it. pytest has a stderr of its own for each phase of a test, so this
        is called in the test and is no fixture."""
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: isatty, raising=False)
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    def test_long_work(self, clock, monkeypatch):
        terminal = self.terminal(monkeypatch)
        with Progress("Sealing a.zip", 200, wanted=True) as progress:
            progress(1)
            assert terminal.getvalue() == ""
            clock[0] += 0.5
            progress(50)
            assert "Sealing a.zip" in terminal.getvalue()
            assert "25%" in terminal.getvalue()
            clock[0] += 0.5
            progress(300)
            assert "100%" in terminal.getvalue()
            progress.finish()
            shown = terminal.getvalue()
            assert shown.endswith("\n")
            clock[0] += 0.5
            progress(200)
        assert terminal.getvalue() == shown

    @pytest.mark.parametrize(("wanted", "isatty"), [(False, True), (True, False)])
    def test_not_wanted_or_no_terminal(self, clock, monkeypatch, wanted, isatty):
        terminal = self.terminal(monkeypatch, isatty=isatty)
        with Progress("Sealing", 200, wanted=wanted) as progress:
            clock[0] += 5
            progress(50)
        assert terminal.getvalue() == ""


class TestUnexpected:
    BREAK = (
        "import sys, privyseal._terminal\nfrom privyseal import cli\n"
        "import privyseal.plugin_version as p\ndef broken(*_): raise KeyError('hush-hush')\np.decide = broken\n"
        "cli.main(sys.argv[1:])"
    )

    def run(self, program):
        (program.folder / "a.zip").touch()
        return subprocess.run(
            [sys.executable, "-c", self.BREAK, "bundle", "encrypt", "a.zip", "--server", "localhost:1"],
            capture_output=True,
            text=True,
            cwd=program.folder,
            env=program.environ,
            timeout=200,
        )

    def test_one_sentence(self, program):
        done = self.run(program)
        assert done.returncode == 1
        assert done.stderr == "Error: unexpected KeyError; run it again with PRIVYSEAL_DEBUG=1 to see where\n"

    def test_debug(self, program):
        program.environ["PRIVYSEAL_DEBUG"] = "1"
        assert "Traceback" in self.run(program).stderr

    def test_abort(self, capsys):
        assert cli._explain(click.Abort()) == 130

    def test_system_error(self, capsys):
        assert cli._explain(PermissionError(13, "Permission denied", "somewhere")) == 1
        assert capsys.readouterr().err == "Error: somewhere: Permission denied\n"
