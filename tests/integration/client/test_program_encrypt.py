"""`privyseal bundle encrypt`, the real program: what it makes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from privyseal import capgo
from privyseal.opening import open_bundle
from tests.fakes.signing_server import Fault, bad_request, retry_info
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3
from tests.support.client_program import DEFAULT_SIGNALS, PROGRAM

ENCRYPT = ("bundle", "encrypt")
V3 = ("--format", "capgo-v3")
CHECKSUM = VECTOR_V3.facts["plain_sha256_hex"]


@pytest.fixture
def served(program, server):
    """The program, pointed at a server without TLS."""
    program.use(server)
    return program


def opens(folder: Path, answer: dict[str, str]) -> bytes:
    """The SHA-256 of what a device would open."""
    return open_bundle(
        folder / answer["filename"],
        iv_session_key=answer["ivSessionKey"],
        checksum=answer["checksum"],
        public_key=capgo.load_public_key(VECTOR_V3.public_pem.read_bytes()),
        output=folder / "opened.zip",
    )


class TestDropIn:
    @pytest.mark.parametrize("scheme", ["capgo-v2", "capgo-v3"])
    def test_json(self, served, bundle, scheme):
        result = served.run(*ENCRYPT, "bundle.zip", CHECKSUM, "--format", scheme, "--json")
        assert result.code == 0, result.err
        answer = json.loads(result.out)
        assert list(answer) == ["checksum", "filename", "ivSessionKey"]
        assert result.out == json.dumps(answer, indent=2) + "\n"
        assert answer["filename"] == "bundle.zip_encrypted.zip"
        assert len(answer["checksum"]) == {"capgo-v2": 344, "capgo-v3": 512}[scheme]
        assert len(answer["ivSessionKey"]) == 369
        assert served.files() == {"bundle.zip", "bundle.zip_encrypted.zip"}
        assert opens(served.folder, answer).hex() == CHECKSUM

    def test_words(self, served, bundle):
        result = served.run(*ENCRYPT, "bundle.zip", *V3)
        assert result.code == 0
        lines = dict(line.split(": ", 1) for line in result.out.splitlines())
        assert lines["checksum"] == VECTOR_V3.checksum
        assert opens(served.folder, lines).hex() == CHECKSUM
        assert "Sealed bundle.zip (610 bytes) as capgo-v3 with the key demo." in result.err

    @pytest.mark.parametrize("path", ["./bundle.zip", "sub/../bundle.zip", "sub//b ü.zip"])
    def test_filename_is_the_argument_with_a_suffix(self, served, bundle, path):
        (served.folder / "sub").mkdir()
        shutil.copy(bundle, served.folder / "sub" / "b ü.zip")
        result = served.run(*ENCRYPT, path, *V3, "--json")
        assert json.loads(result.out)["filename"] == f"{path}_encrypted.zip"
        assert (served.folder / f"{path}_encrypted.zip").exists()
        assert "\\u" not in result.out

    def test_a_name_that_is_not_text(self, served, bundle):
        name = os.fsencode(served.folder) + b"/b\xff.zip"
        Path(os.fsdecode(name)).write_bytes(bundle.read_bytes())
        process = served.start(*ENCRYPT, os.fsdecode(name), *V3, "--json")
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert b"b\xff.zip_encrypted.zip" in out

    def test_output(self, served, bundle):
        (served.folder / "dist").mkdir()
        result = served.run(*ENCRYPT, "bundle.zip", *V3, "--json", "--output", "dist/sealed.zip")
        assert json.loads(result.out)["filename"] == "dist/sealed.zip"
        assert opens(served.folder, json.loads(result.out)).hex() == CHECKSUM
        assert "bundle.zip_encrypted.zip" not in served.files()

    def test_existing_output_is_replaced(self, served, bundle):
        (served.folder / "bundle.zip_encrypted.zip").write_bytes(b"before")
        result = served.run(*ENCRYPT, "bundle.zip", *V3, "--json")
        assert opens(served.folder, json.loads(result.out)).hex() == CHECKSUM

    def test_checksum_in_upper_case(self, served, bundle):
        assert served.run(*ENCRYPT, "bundle.zip", CHECKSUM.upper(), *V3).code == 0


class TestConnection:
    def test_mutual_tls_by_flags(self, program, bundle, pki, mutual_server):
        result = program.run(*ENCRYPT, "bundle.zip", *V3, "--server", mutual_server.address, *pki.flags(), "--json")
        assert result.code == 0, result.err
        assert result.err == ""

    def test_mutual_tls_by_variables(self, program, bundle, pki, mutual_server):
        program.environ |= {
            "PRIVYSEAL_SERVER": mutual_server.address,
            "PRIVYSEAL_CA": str(pki.ca),
            "PRIVYSEAL_CERT": str(pki.cert),
            "PRIVYSEAL_CERT_KEY": str(pki.cert_key),
            "PRIVYSEAL_KEY": "demo",
        }
        assert program.run(*ENCRYPT, "bundle.zip", *V3).code == 0
        assert {getattr(call.request, "key", "") or call.request.name for call in mutual_server.calls} == {"demo"}

    def test_users_file(self, program, bundle, pki, mutual_server):
        folder = program.folder / "home" / ".config" / "privyseal"
        folder.mkdir(parents=True)
        for name, file in (("ca", pki.ca), ("cert", pki.cert), ("key", pki.cert_key)):
            shutil.copy(file, folder / f"{name}.pem")
        (folder / "config.toml").write_text(
            f'server = "{mutual_server.address}"\nca = "ca.pem"\ncert = "cert.pem"\ncert_key = "key.pem"\n'
        )
        assert program.run(*ENCRYPT, "bundle.zip", *V3).code == 0

    def test_token_file(self, program, bundle, pki, tls_server):
        (program.folder / "token").write_text("from.a-file\n")
        flags = ("--server", tls_server.address, "--ca", pki.ca, "--token-file", "token")
        assert program.run(*ENCRYPT, "bundle.zip", *V3, *flags).code == 0
        assert {call.metadata["authorization"] for call in tls_server.calls} == {"Bearer from.a-file"}

    def test_token_command(self, program, bundle, pki, tls_server):
        flags = ("--server", tls_server.address, "--ca", pki.ca, "--token-command", "echo from-a-command")
        assert program.run(*ENCRYPT, "bundle.zip", *V3, *flags).code == 0
        assert {call.metadata["authorization"] for call in tls_server.calls} == {"Bearer from-a-command"}

    def test_without_tls_it_says_so(self, program, bundle, server):
        result = program.run(*ENCRYPT, "bundle.zip", *V3, "--server", server.address, "--insecure", "--json")
        assert result.code == 0
        assert result.err == (
            f"Warning: the connection to {server.address} is not encrypted and proves nobody's identity\n"
        )

    def test_tls_is_the_default(self, program, bundle, server):
        result = program.run(*ENCRYPT, "bundle.zip", *V3, "--server", server.address, "--timeout", "5")
        assert result.code == 3
        assert "does not speak TLS" in result.sentence()

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            ((), "no signing service is named; pass --server HOST:PORT or set PRIVYSEAL_SERVER"),
            (("--server", "signing.example"), "is not an address"),
            (("--server", "http://10.0.0.1:1"), "without TLS is refused"),
            (("--server", "localhost:1", "--insecure", "--token", "x"), "sent over TLS only"),
            (("--server", "localhost:1", "--cert", "c.pem"), "add --cert-key FILE"),
            (("--server", "localhost:1", "--cert", "c.pem", "--cert-key", "k.pem"), "c.pem: no such file"),
            (("--server", "localhost:1", "--token", "a b"), "no bearer token"),
            (("--server", "localhost:1", "--ca", "."), ". is a folder"),
            (("--server", "localhost:1", "--timeout", "0"), "--timeout"),
            (("--server", "localhost:1", "--timeout", "inf"), "--timeout"),
            (("--server", "localhost:1", *V3, "--receipt", "bundle.zip"), "bundle.zip is named for two things"),
            (("--server", "localhost:1", *V3, "--receipt", "./bundle.zip_encrypted.zip"), "is named for two things"),
            (("--server", "localhost:1", "--format", "zip"), "--format"),
            (("--sever", "localhost:1"), "--sever"),
        ],
    )
    def test_wrong_settings(self, program, bundle, flags, says):
        result = program.run(*ENCRYPT, "bundle.zip", *flags)
        assert result.code == 2
        assert says in result.sentence()
        assert program.files() == {"bundle.zip"}

    def test_project_file(self, served, bundle):
        (served.folder / "privyseal.toml").write_text('key = "demo"\nformat = "capgo-v3"\n')
        result = served.run(*ENCRYPT, "bundle.zip", "--json")
        assert len(json.loads(result.out)["checksum"]) == 512
        (served.folder / "privyseal.toml").write_text('server = "evil.example:443"\n')
        result = served.run(*ENCRYPT, "bundle.zip")
        assert result.code == 2
        assert "privyseal.toml sets server; it may set only key and format" in result.sentence()


class TestBadInput:
    def refused(self, served, code, says, *arguments, prelude=None):
        before = served.files()
        run = served.run if prelude is None else lambda *a: served.run_after(prelude, *a)
        result = run(*ENCRYPT, *arguments, *V3, "--json")
        assert result.code == code, result.err
        assert says in result.sentence()
        assert result.out == ""
        assert served.files() == before

    def test_no_such_file(self, served):
        self.refused(served, 2, "none.zip: no such file", "none.zip")

    def test_folder(self, served):
        (served.folder / "bundle.zip").mkdir()
        self.refused(served, 2, "bundle.zip is a folder", "bundle.zip")

    def test_no_argument(self, served):
        result = served.run(*ENCRYPT)
        assert result.code == 2
        assert "Missing argument 'ZIP'" in result.sentence()

    def test_empty_argument(self, served):
        self.refused(served, 2, "is a folder", "")

    def test_pipe(self, served):
        os.mkfifo(served.folder / "pipe")
        self.refused(served, 2, "pipe is not a regular file", "pipe")

    def test_empty(self, served):
        (served.folder / "bundle.zip").touch()
        self.refused(served, 1, "bundle.zip is empty", "bundle.zip")

    @pytest.mark.parametrize("content", [b"P", b"hello, world", bytes(5000), b"\x1f\x8b" + bytes(50)])
    def test_not_a_zip(self, served, content):
        (served.folder / "bundle.zip").write_bytes(content)
        self.refused(served, 1, "bundle.zip is not a zip", "bundle.zip")

    def test_half_a_zip(self, served, bundle):
        bundle.write_bytes(bundle.read_bytes()[:300])
        self.refused(served, 1, "is a zip without its end", "bundle.zip")

    def test_zip_with_nothing_in_it(self, served, bundle):
        bundle.write_bytes(b"PK\x05\x06" + bytes(18))
        self.refused(served, 1, "nothing in it", "bundle.zip")

    def test_zip_with_a_comment(self, served, bundle):
        data = bytearray(bundle.read_bytes())
        data[-2:] = (60000).to_bytes(2, "little")
        bundle.write_bytes(bytes(data) + b"c" * 60000)
        assert served.run(*ENCRYPT, "bundle.zip", *V3).code == 0

    def test_unreadable(self, served):
        # Permissions do not hold root back, but nobody can read the first page of a process's memory.
        self.refused(served, 2, "/proc/self/mem cannot be read (Input/output error)", "/proc/self/mem")

    def test_other_checksum(self, served, server, bundle):
        self.refused(
            served, 1, f"CHECKSUM is not that of bundle.zip, whose SHA-256 is {CHECKSUM}", "bundle.zip", "0" * 64
        )
        assert "SignChecksum" not in server.methods()

    @pytest.mark.parametrize("checksum", ["", "abc", "0" * 63, "g" * 64, "deadbeef", VECTOR_V3.checksum])
    def test_what_is_no_checksum(self, served, server, bundle, checksum):
        self.refused(served, 1, "CHECKSUM is not a SHA-256; pass its 64 hex characters", "bundle.zip", checksum)
        assert server.calls == []

    def test_full_disk(self, served, bundle):
        bundle.write_bytes(bundle.read_bytes()[:-22] + bytes(3 << 20) + bundle.read_bytes()[-22:])
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
        self.refused(served, 1, "cannot be written (File too large)", "bundle.zip", prelude=limit)

    def test_existing_output_stays(self, served, server, bundle):
        output = served.folder / "bundle.zip_encrypted.zip"
        output.write_bytes(b"before")
        server.corrupt.add("SignChecksum")
        self.refused(served, 1, "does not verify", "bundle.zip")
        assert output.read_bytes() == b"before"

    def test_no_folder_for_the_output(self, served, bundle):
        self.refused(served, 2, "none/out.zip: no such folder", "bundle.zip", "--output", "none/out.zip")

    def test_output_is_a_folder(self, served, bundle):
        (served.folder / "out").mkdir()
        self.refused(served, 2, "out is a folder", "bundle.zip", "--output", "out")

    def test_output_is_no_file(self, served, bundle):
        self.refused(served, 2, "/dev/null is not a regular file", "bundle.zip", "--output", "/dev/null")

    def test_output_is_the_input(self, served, bundle):
        (served.folder / "link.zip").symlink_to(bundle)
        self.refused(served, 2, "link.zip is the input itself", "bundle.zip", "--output", "link.zip")


class TestKeyFiles:
    @pytest.mark.parametrize(
        "name", [".capgo_key_v2", ".capgo_key", "keys/private.pem", "./key", "/etc/key", "innocent"]
    )
    def test_explained(self, served, server, bundle, name):
        (served.folder / "innocent").write_bytes(VECTOR_V3.private_pem)
        result = served.run(*ENCRYPT, "bundle.zip", "--key", name)
        assert result.code == 2
        assert "--key is the name of a key at the signing service" in result.sentence()
        assert "privyseal-server key import" in result.err
        assert server.calls == []

    @pytest.mark.parametrize("flag", ["--key", "--key-data"])
    def test_a_private_key_is_not_shown(self, served, bundle, flag):
        result = served.run(*ENCRYPT, "bundle.zip", flag, VECTOR_V3.private_pem.decode())
        assert result.code == 2
        assert "private key" in result.sentence()
        assert "MII" not in result.err + result.out

    def test_a_file_that_is_no_key(self, served, bundle):
        (served.folder / "demo").write_text("notes")
        assert served.run(*ENCRYPT, "bundle.zip", "--key", "demo", *V3).code == 0


class TestService:
    @pytest.mark.parametrize(
        ("fault", "code", "says"),
        [
            (
                Fault(grpc.StatusCode.INVALID_ARGUMENT, "it does not fit", (bad_request("app_id", "is too long"),)),
                1,
                "it does not fit; app_id is too long (request request-1)",
            ),
            (Fault(grpc.StatusCode.UNAUTHENTICATED, "who is it?"), 1, "who is it?; check the client certificate"),
            (Fault(grpc.StatusCode.PERMISSION_DENIED, "no grant"), 1, "no grant; check the key's name"),
            (Fault(grpc.StatusCode.FAILED_PRECONDITION, "the key cannot"), 1, "the key cannot (request request-1)"),
            (Fault(grpc.StatusCode.INTERNAL, "a fault"), 1, "a fault; give the request id"),
            (
                Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", (retry_info(60),)),
                3,
                "slow down; try again in 60.0 s",
            ),
            (Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "too slow"), 3, "too slow"),
            (Fault(grpc.StatusCode.CANCELLED, "gone"), 3, "gone; try again"),
        ],
        ids=lambda value: value.code.name if isinstance(value, Fault) else "",
    )
    def test_errors(self, served, server, bundle, fault, code, says):
        server.fail("WrapSessionKey", *[fault] * 5)  # CANCELLED is tried again
        result = served.run(*ENCRYPT, "bundle.zip", *V3, "--json")
        assert result.code == code
        assert says in result.sentence()
        assert served.files() == {"bundle.zip"}

    def test_a_moment_away(self, served, server, bundle):
        server.fail("SignChecksum", Fault(grpc.StatusCode.UNAVAILABLE))
        assert served.run(*ENCRYPT, "bundle.zip", *V3).code == 0

    def test_away(self, program, bundle):
        program.environ["PRIVYSEAL_SERVER"] = "http://127.0.0.1:1"
        result = program.run(*ENCRYPT, "bundle.zip", *V3)
        assert result.code == 3
        assert "the signing service at 127.0.0.1:1 cannot be reached: nothing listens there" in result.sentence()
        assert program.files() == {"bundle.zip"}

    def test_slow(self, served, server, bundle):
        server.fail("SignChecksum", Fault(delay_s=30))
        result = served.run(*ENCRYPT, "bundle.zip", *V3, "--timeout", "0.3")
        assert result.code == 3
        assert "did not answer in time" in result.sentence()
        assert served.files() == {"bundle.zip"}

    def test_another_key(self, served, server, bundle):
        server.public_key = capgo.load_public_key(VECTOR_V2.public_pem.read_bytes())
        result = served.run(*ENCRYPT, "bundle.zip", *V3)
        assert result.code == 1
        assert "a wrapped key that does not verify" in result.sentence()
        assert served.files() == {"bundle.zip"}


class TestContext:
    FLAGS = ("--app-id", "com.example.app", "--bundle-version", "1.4.2")

    def contexts(self, server):
        return [call.request.context for call in server.calls if call.method != "GetKey"]

    def test_flags(self, served, server, bundle):
        served.environ |= {"GITLAB_CI": "true", "CI_COMMIT_SHA": "from-ci", "CI_JOB_URL": "https://ci.example/1"}
        flags = (*self.FLAGS, "--revision", "c0ffee", "--build-url", "https://b.example/1")
        served.run(*ENCRYPT, "bundle.zip", *V3, *flags)
        for context in self.contexts(server):
            assert context.app_id == "com.example.app"
            assert context.bundle_version == "1.4.2"
            assert context.source_revision == "c0ffee"
            assert context.build_url == "https://b.example/1"

    def test_ci(self, served, server, bundle):
        served.environ |= {"GITLAB_CI": "true", "CI_COMMIT_SHA": "from-ci", "CI_JOB_URL": "https://ci.example/1"}
        served.run(*ENCRYPT, "bundle.zip", *V3, *self.FLAGS)
        assert len(self.contexts(server)) == 2
        for context in self.contexts(server):
            assert (context.source_revision, context.build_url) == ("from-ci", "https://ci.example/1")
            assert context.app_id == "com.example.app"


class TestFormat:
    def install(self, folder, version):
        package = folder / "node_modules" / "@capgo" / "capacitor-updater" / "package.json"
        package.parent.mkdir(parents=True)
        package.write_text(json.dumps({"version": version}))

    @pytest.mark.parametrize(("version", "length"), [("7.27.8", 344), ("8.51.23", 512)])
    def test_auto(self, served, bundle, version, length):
        self.install(served.folder, version)
        result = served.run(*ENCRYPT, "bundle.zip", "--json")
        assert len(json.loads(result.out)["checksum"]) == length
        assert f"@capgo/capacitor-updater {version} takes" in result.err

    def test_auto_without_a_plugin(self, served, bundle):
        result = served.run(*ENCRYPT, "bundle.zip", "--json")
        assert len(json.loads(result.out)["checksum"]) == 344
        assert "Warning: no @capgo/capacitor-updater was found" in result.err

    def test_auto_with_an_unreadable_version(self, served, bundle):
        self.install(served.folder, "latest")
        result = served.run(*ENCRYPT, "bundle.zip", "--json")
        assert "Warning: the version latest" in result.err

    def test_package_json(self, served, bundle):
        self.install(served.folder / "app", "8.0.0")
        (served.folder / "app" / "package.json").write_text("{}")
        result = served.run(*ENCRYPT, "bundle.zip", "--json", "--package-json", "app/package.json")
        assert len(json.loads(result.out)["checksum"]) == 512

    @pytest.mark.parametrize("how", [V3, ()])
    def test_package_json_that_is_not_there(self, served, bundle, how):
        (served.folder / "package.json").write_text("{}")
        result = served.run(*ENCRYPT, "bundle.zip", *how, "--package-json", "package.json, app/package.json")
        assert result.code == 2
        assert "app/package.json: no such file; correct --package-json" in result.sentence()
        assert served.files() == {"bundle.zip", "package.json"}


class TestInterruption:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.parametrize("method", ["GetKey", "SignChecksum"])
    def test_signal(self, served, server, bundle, number, code, method):
        output = served.folder / "bundle.zip_encrypted.zip"
        output.write_bytes(b"before")
        server.fail(method, Fault(delay_s=30))
        process = served.start_after(DEFAULT_SIGNALS, *ENCRYPT, "bundle.zip", *V3)
        server.wait_for(method)
        process.send_signal(number)
        out, err = process.communicate(timeout=200)
        assert process.returncode == code
        assert out == b""
        assert b"Traceback" not in err
        assert served.files() == {"bundle.zip", output.name}
        assert output.read_bytes() == b"before"

    def test_killed(self, served, server, bundle):
        server.fail("SignChecksum", Fault(delay_s=30))
        process = served.start_after(DEFAULT_SIGNALS, *ENCRYPT, "bundle.zip", *V3)
        server.wait_for("SignChecksum")
        process.kill()
        process.communicate(timeout=200)
        assert served.files() == {"bundle.zip"}

    def test_a_signal_that_was_ignored_stays_so(self, served, server, bundle):
        server.fail("SignChecksum", Fault(delay_s=0.5))
        process = served.start_after("signal.signal(signal.SIGINT, signal.SIG_IGN)", *ENCRYPT, "bundle.zip", *V3)
        server.wait_for("SignChecksum")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=200)
        assert process.returncode == 0


class TestStreams:
    def test_nobody_reads(self, served, bundle):
        reader, writer = os.pipe()
        os.close(reader)
        result = served.run(*ENCRYPT, "bundle.zip", *V3, "--json", stdout=writer)
        os.close(writer)
        assert result.code == 1
        assert "standard output cannot be written (Broken pipe), so bundle.zip_encrypted.zip" in result.sentence()
        assert served.files() == {"bundle.zip"}

    @pytest.mark.parametrize("how", [("--json",), ()])
    def test_full_stdout(self, served, bundle, how):
        """An output without its values could not be opened, so what was there before stays."""
        output = served.folder / "bundle.zip_encrypted.zip"
        output.write_bytes(b"before")
        with Path("/dev/full").open("wb") as full:
            result = served.run(*ENCRYPT, "bundle.zip", *V3, *how, stdout=full)
        assert result.code == 1
        assert "No space left on device" in result.sentence()
        assert output.read_bytes() == b"before"
        assert served.files() == {"bundle.zip", output.name}

    def test_closed_stdout(self, served, bundle):
        result = served.run_after("os.close(1)", *ENCRYPT, "bundle.zip", *V3, "--json")
        assert result.code == 1
        assert "Bad file descriptor" in result.sentence()
        assert served.files() == {"bundle.zip"}

    def test_closed_stderr(self, served, bundle):
        result = served.run_after("os.close(2)", *ENCRYPT, "bundle.zip", *V3, "--json")
        assert result.code == 0
        assert len(json.loads(result.out)["checksum"]) == 512

    def test_ascii_terminal(self, served, bundle):
        shutil.copy(bundle, served.folder / "bündel.zip")
        served.environ |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        result = served.run(*ENCRYPT, "bündel.zip", *V3, "--json")
        assert result.code == 0, result.err
        assert len(json.loads(result.out)["checksum"]) == 512


class TestMemory:
    MEASURE = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )

    def test_it_does_not_grow_with_the_file(self, served, bundle):
        # The measuring process stands between, since a program begins with its parent's peak as its own.
        data = bundle.read_bytes()
        with bundle.open("wb") as file:
            file.write(data[:-22])
            file.seek(96 << 20)
            file.write(data[-22:])
        arguments = (str(PROGRAM), *ENCRYPT, "bundle.zip", *V3, "--json")
        measured = subprocess.run(
            [sys.executable, "-c", self.MEASURE, *arguments],
            cwd=served.folder,
            env=served.environ,
            capture_output=True,
            timeout=200,
            check=True,
        )
        assert int(measured.stdout) <= 64 << 10  # KiB
        sealed = served.folder / "bundle.zip_encrypted.zip"
        assert sealed.stat().st_size == bundle.stat().st_size + 16 - bundle.stat().st_size % 16
        sealed.unlink()
