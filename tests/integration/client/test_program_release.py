"""`privyseal bundle seal` and `bundle open`, the real program: what they print, their exit codes, what they leave."""

from __future__ import annotations

import json
import os
import pty
import signal
import threading

import grpc
import pytest

from tests.fakes.signing_server import Fault
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3
from tests.support.client_program import DEFAULT_SIGNALS
from tests.support.releases import read_app, write_app

FILES = {"index.html": b"<p>Hello</p>\n" * 1000, "js/main.js": b"start()\n", "empty.txt": b""}
SEAL = ("bundle", "seal", "app", "--version", "1.2.3", "--output", "out", "--format", "capgo-v3")
URL = ("--base-url", "https://updates.example.com/app")
OPEN = ("bundle", "open", "out/update.json", "--public-key", VECTOR_V3.public_pem, "--output", "opened")


@pytest.fixture
def served(program, server):
    """The program with an app in its folder, pointed at a server without TLS."""
    write_app(program.folder / "app", FILES)
    program.use(server)
    return program


def test_seal_and_open_with_words(served):
    sealed = served.run(*SEAL, *URL, "--delta")
    assert (sealed.code, sealed.out) == (0, "out/update.json\n")
    assert "Sealed app (3 files, 13008 bytes) as 1.2.3, capgo-v3, with the key demo." in sealed.err
    assert "Delta: 2 files, " in sealed.err
    assert " 1 of them compressed; 1 empty, which deltas leave out." in sealed.err
    assert "4 operations of the key; " in sealed.err
    opened = served.run(*OPEN)
    assert (opened.code, opened.out) == (0, "opened\n")
    assert opened.err == "Verified: 2 files (13008 bytes) of the delta of 1.2.3.\n"
    assert read_app(served.folder / "opened") == {name: data for name, data in FILES.items() if data}
    whole = served.run(*OPEN[:-1], "whole", "--zip")
    assert whole.err == "Verified: 3 files (13008 bytes) of the zip of 1.2.3.\n"
    assert read_app(served.folder / "whole") == FILES


def test_json(served, server):
    sealed = served.run(*SEAL, *URL, "--delta", "--json", "--signature-cache", "cache")
    summary = json.loads(sealed.out)
    assert list(summary) == [
        "version", "format", "key", "update", "folder", "url", "files", "plain_bytes", "zip_bytes", "delta",
        "operations", "cached", "seconds",
    ]  # fmt: skip
    assert summary["url"] == "https://updates.example.com/app/1.2.3/bundle.zip"
    assert (summary["operations"], summary["cached"]) == (4, 0)
    assert (summary["delta"]["files"], summary["delta"]["left_out_empty"]) == (2, 1)
    assert summary["zip_bytes"] == (served.folder / summary["folder"] / "bundle.zip").stat().st_size
    arguments = [word.replace("1.2.3", "1.2.4") if isinstance(word, str) else word for word in SEAL]
    again = json.loads(served.run(*arguments, *URL, "--delta", "--json", "--signature-cache", "cache").out)
    assert (again["operations"], again["cached"]) == (2, 2)
    assert json.loads((served.folder / "out" / "update.json").read_text())["version"] == "1.2.4"


def test_without_a_delta(served):
    assert json.loads(served.run(*SEAL, *URL, "--json").out)["delta"] is None
    assert served.run(*OPEN).err == "Verified: 3 files (13008 bytes) of the zip of 1.2.3.\n"


def test_the_answer_in_a_releases_own_folder_opens_too(served):
    served.run(*SEAL, "--delta")
    for number, path in enumerate(("out/1.2.3/update.json", served.folder / "out" / "1.2.3" / "update.json")):
        opened = served.run("bundle", "open", path, "--public-key", VECTOR_V3.public_pem, "--output", f"o{number}")
        assert opened.code == 0, opened.err


def test_what_is_recorded(served, server):
    served.run(*SEAL, *URL, "--app-id", "com.example.app", "--revision", "abc", "--build-url", "https://ci.example/1")
    context = server.calls[-1].request.context
    assert (context.app_id, context.bundle_version) == ("com.example.app", "1.2.3")
    assert (context.source_revision, context.build_url) == ("abc", "https://ci.example/1")


@pytest.mark.parametrize(
    ("flags", "says"),
    [((), "the URLs in update.json are relative"), (("--base-url", "http://a.example"), "refuse to load")],
)
def test_urls_that_devices_refuse_are_a_warning(served, flags, says):
    sealed = served.run(*SEAL, *flags)
    assert sealed.code == 0
    assert any(line.startswith("Warning: ") and says in line for line in sealed.err.splitlines())


def test_open_needs_neither_service_nor_configuration(served):
    served.run(*SEAL, *URL, "--delta")
    (served.folder / "privyseal.toml").write_text("not TOML")
    served.environ["PRIVYSEAL_SERVER"] = "not an address"
    assert served.run(*OPEN).code == 0


def test_brotli_that_is_not_installed(served, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "brotli.py").write_text("raise ModuleNotFoundError('brotli')")
    served.environ["PYTHONPATH"] = str(tmp_path / "path")
    sealed = served.run(*SEAL, *URL, "--delta")
    assert sealed.code == 2
    assert "install privyseal with its extra: pip install 'privyseal[delta]'" in sealed.sentence()
    assert not (served.folder / "out").exists()


class TestExitCodes:
    def refused(self, served, code, says, *arguments):
        before = served.files()
        done = served.run(*arguments)
        assert done.code == code, done.err
        assert says in done.sentence()
        assert done.out == ""
        assert served.files() == before

    @pytest.mark.parametrize(
        ("method", "status", "code"),
        [
            ("BatchSignChecksums", grpc.StatusCode.PERMISSION_DENIED, 1),
            ("SignChecksum", grpc.StatusCode.FAILED_PRECONDITION, 1),
            ("BatchSignChecksums", grpc.StatusCode.RESOURCE_EXHAUSTED, 3),
            ("WrapSessionKey", grpc.StatusCode.DEADLINE_EXCEEDED, 3),
        ],
    )
    def test_what_the_service_says(self, served, server, method, status, code):
        server.fail(method, Fault(status, "as the test wanted"))
        self.refused(served, code, "as the test wanted", *SEAL, *URL, "--delta")

    def test_a_wrong_answer(self, served, server):
        server.corrupt.add("SignChecksum")
        self.refused(served, 1, "does not verify", *SEAL, *URL, "--delta")

    def test_receipts_that_do_not_come(self, served):
        self.refused(served, 1, "keeps no audit trail", *SEAL, *URL, "--delta", "--receipt", "receipts.json")

    def test_usage(self, served):
        self.refused(served, 2, "--version", "bundle", "seal", "app", "--output", "out")
        self.refused(served, 2, "is not a semantic version", *SEAL[:4], "next", *SEAL[5:])
        self.refused(served, 2, "no such file", "bundle", "seal", "none", *SEAL[3:])
        self.refused(served, 2, "is inside of app", *SEAL[:5], "--output", "app/out", *SEAL[7:])
        self.refused(served, 2, "no such file", *OPEN)

    def test_unfit_input(self, served):
        (served.folder / "app" / "Index.html").touch()
        self.refused(served, 1, "index.html, which are one name to some devices", *SEAL, *URL)

    def test_a_name_that_is_not_text(self, served):
        (served.folder / "app" / os.fsdecode(b"a\xff")).touch()
        self.refused(served, 1, "is not UTF-8", *SEAL, *URL)

    def test_a_version_that_is_there(self, served):
        served.run(*SEAL, *URL)
        self.refused(served, 2, "out/1.2.3 exists already", *SEAL, *URL)

    def test_another_key(self, served):
        served.run(*SEAL, *URL, "--delta")
        words = [VECTOR_V2.public_pem if word == VECTOR_V3.public_pem else word for word in OPEN]
        self.refused(served, 1, "the session key was not wrapped", *words)

    def test_a_file_that_is_no_update(self, served):
        (served.folder / "update.json").write_text("{}")
        self.refused(served, 1, "the update has no version", *OPEN[:2], "update.json", *OPEN[3:])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(served, server, number, code):
    arrived = threading.Event()

    def wait(method):
        if method == "BatchSignChecksums":
            arrived.set()
            server.stopping.wait(200)

    server.before = wait
    process = served.start_after(DEFAULT_SIGNALS, *SEAL, *URL, "--delta")
    assert arrived.wait(200)
    process.send_signal(number)
    process.communicate(timeout=200)
    server.stopping.set()
    assert process.returncode == code
    assert served.files() == {"app"}


def test_progress_on_a_terminal(served, server):
    terminal, inside = pty.openpty()
    held = threading.Event()

    def wait(method):
        if method == "WrapSessionKey":
            held.wait(0.6)  # beyond the time from which progress is shown

    server.before = wait
    write_app(served.folder / "app", {f"{number}.js": os.urandom(9000) for number in range(40)})
    process = served.start(*SEAL, *URL, "--delta", stderr=inside)
    os.close(inside)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert b"Sealing app " in shown
    assert b"%" in shown


def test_help_is_quick_and_has_examples(program):
    for command in ("seal", "open"):
        shown = program.run("bundle", command, "--help")
        assert shown.code == 0
        assert "Examples:" in shown.out
