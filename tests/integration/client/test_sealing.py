"""Sealing and opening as functions: known answers, streams of every length, and outputs whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from hashlib import sha256
from io import BytesIO, FileIO

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal import Client, _cipher, _files, capgo
from privyseal._cipher import CHUNK_BYTES, PaddingError, StoppedError, decrypt_stream, encrypt_stream
from privyseal._files import AtomicOutput, open_input, read_small
from privyseal.errors import FileUnusableError, InputError, NotVerifiedError, UnavailableError, WriteError
from privyseal.model import SignatureScheme
from privyseal.opening import open_bundle
from privyseal.sealing import BundleSecrets, seal_bundle
from tests.fakes.signing_server import SigningServer, signing_server
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3, Vector

KEY, IV = bytes(range(16)), bytes(range(16, 32))
SIZES = [0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]


def reference(plain: bytes) -> bytes:
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES128(KEY), modes.CBC(IV)).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def pattern(size: int) -> bytes:
    return (sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


class TestStreams:
    @pytest.mark.parametrize("size", SIZES)
    def test_round_trip(self, size, tmp_path):
        plain, sealed, opened = pattern(size), BytesIO(), BytesIO()
        (tmp_path / "plain").write_bytes(plain)
        with open_input(tmp_path / "plain") as source:
            digest, counted = encrypt_stream(source, sealed.write, KEY, IV)
        assert (digest, counted) == (sha256(plain).digest(), size)
        assert sealed.getvalue() == reference(plain)
        (tmp_path / "sealed").write_bytes(sealed.getvalue())
        with open_input(tmp_path / "sealed") as source:
            assert decrypt_stream(source, opened.write, KEY, IV) == digest
        assert opened.getvalue() == plain

    @given(st.binary(max_size=200))
    @settings(deadline=None, max_examples=50)
    def test_small_pieces(self, plain):
        # A file that gives a few bytes at a time, as a network file system may.
        class Dribble(BytesIO):
            def readinto(self, buffer):
                return super().readinto(memoryview(buffer)[:7])

        sealed, opened = BytesIO(), BytesIO()
        digest, _ = encrypt_stream(Dribble(plain), sealed.write, KEY, IV)
        assert sealed.getvalue() == reference(plain)
        assert decrypt_stream(Dribble(sealed.getvalue()), opened.write, KEY, IV) == digest
        assert opened.getvalue() == plain

    @pytest.mark.parametrize("last", [bytes(16), b"\x11" * 16, bytes(14) + b"\x01\x02", bytes(15) + b"\x10"])
    def test_wrong_padding(self, last):
        encryptor = Cipher(algorithms.AES128(KEY), modes.CBC(IV)).encryptor()
        sealed = encryptor.update(bytes(32) + last) + encryptor.finalize()
        with pytest.raises(PaddingError):
            decrypt_stream(BytesIO(sealed), BytesIO().write, KEY, IV)

    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_not_whole_blocks(self, size):
        with pytest.raises(PaddingError):
            decrypt_stream(BytesIO(bytes(size)), BytesIO().write, KEY, IV)

    def test_stop(self, tmp_path):
        (tmp_path / "plain").write_bytes(bytes(5 * CHUNK_BYTES))
        stop, seen = threading.Event(), []

        def sink(data):
            seen.append(len(data))
            stop.set()

        with open_input(tmp_path / "plain") as source, pytest.raises(StoppedError):
            encrypt_stream(source, sink, KEY, IV, stop=stop)
        assert seen == [CHUNK_BYTES]

    def test_progress(self, tmp_path):
        (tmp_path / "plain").write_bytes(bytes(2 * CHUNK_BYTES + 1))
        done: list[int] = []
        with open_input(tmp_path / "plain") as source:
            encrypt_stream(source, BytesIO().write, KEY, IV, progress=done.append)
        assert done == [CHUNK_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1]


class TestAtomicOutput:
    @pytest.fixture(params=["nameless", "hidden"])
    def kind(self, request, monkeypatch):
        """Both ways to write: a file without a name, and a hidden one where the system has no such thing."""
        if request.param == "hidden":
            monkeypatch.delattr(os, "O_TMPFILE", raising=False)

    def test_publish(self, kind, tmp_path):
        path = tmp_path / "out"
        with AtomicOutput(path) as output:
            _files.write_all(output.file, b"whole")
            assert not path.exists()
            output.publish()
        assert path.read_bytes() == b"whole"
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_replace(self, kind, tmp_path):
        path = tmp_path / "out"
        path.write_bytes(b"before")
        with AtomicOutput(path) as output:
            _files.write_all(output.file, b"after")
            assert path.read_bytes() == b"before"
            output.publish()
        assert path.read_bytes() == b"after"

    def test_failure_leaves_nothing(self, kind, tmp_path):
        path = tmp_path / "out"
        path.write_bytes(b"before")
        with AtomicOutput(path) as output:
            _files.write_all(output.file, b"part")
        assert path.read_bytes() == b"before"
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_failed_replace_leaves_nothing(self, kind, tmp_path):
        path = tmp_path / "out"
        with AtomicOutput(path) as output:
            path.mkdir()
            with pytest.raises(WriteError):
                output.publish()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_link_is_followed(self, kind, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
        with AtomicOutput(tmp_path / "link") as output:
            output.publish()
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "target").exists()

    def test_umask(self, kind, tmp_path):
        before = os.umask(0o027)
        try:
            with AtomicOutput(tmp_path / "out") as output:
                output.publish()
        finally:
            os.umask(before)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_error_of_writing(self, kind, tmp_path, code):
        output = AtomicOutput(tmp_path / "out")
        with pytest.raises(WriteError, match=os.strerror(code)) as caught, output, output.writing():
            raise OSError(code, os.strerror(code))
        assert ("room" in caught.value.remedy) == (code in {errno.ENOSPC, errno.EDQUOT})
        assert not list(tmp_path.iterdir())

    def test_no_folder(self, kind, tmp_path):
        with pytest.raises(FileUnusableError, match="no such folder"), AtomicOutput(tmp_path / "none" / "out"):
            pass

    def test_closed_output(self, tmp_path):
        with pytest.raises(ValueError, match="not open"):
            _ = AtomicOutput(tmp_path / "out").file

    def test_short_writes(self):
        taken = []

        class Short(FileIO):
            def write(self, data):
                taken.append(bytes(data[:3]))
                return len(taken[-1])

        with Short(os.devnull, "wb") as file:
            _files.write_all(file, b"0123456789")
        assert b"".join(taken) == b"0123456789"


class TestInputs:
    def test_unreadable(self, tmp_path, monkeypatch):
        # Root reads everything, so the refusal is made here.
        def refuse(*_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        (tmp_path / "zip").touch()
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(FileUnusableError, match="Permission denied"):
            open_input(tmp_path / "zip")

    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileUnusableError, match="not a regular file"):
            open_input(tmp_path / "pipe")

    def test_read_error(self, tmp_path):
        with pytest.raises(FileUnusableError, match="Input/output error"), _files.reading(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def test_small_file_that_is_not(self, tmp_path):
        (tmp_path / "ca.pem").write_bytes(bytes(_files.SMALL_FILE_BYTES + 1))
        with pytest.raises(InputError, match="larger"):
            read_small(tmp_path / "ca.pem")


@pytest.fixture
def served(vector):
    with signing_server(vector.private_pem) as running:
        yield vector, running


def sealing(running: SigningServer, path, **options):
    client = Client(f"http://{running.address}")
    with client:
        return seal_bundle(lambda: client, path, **options)


class TestSealing:
    def test_known_answer(self, served, tmp_path):
        vector, running = served
        secrets = BundleSecrets(vector.hex("session_key_hex"), vector.hex("iv_hex"))
        output = tmp_path / "sealed"
        sealed = sealing(running, vector.bundle, scheme=vector.scheme, output=output, bundle_secrets=secrets)
        assert output.read_bytes() == vector.encrypted.read_bytes()
        assert sealed.checksum == vector.checksum
        assert sealed.iv_session_key == vector.iv_session_key
        assert sealed.plain_checksum == vector.hex("plain_sha256_hex")
        assert sealed.size_bytes == vector.bundle.stat().st_size
        assert sealed.path == output

    def test_default_output_and_fresh_secrets(self, server, bundle):
        with Client(f"http://{server.address}") as client:
            first = client.seal_bundle(bundle)
            bytes_before = first.path.read_bytes()
            second = client.seal_bundle(str(bundle), scheme="capgo-v3")
        assert first.path == second.path == bundle.with_name("bundle.zip_encrypted.zip")
        assert first.iv_session_key != second.iv_session_key
        assert bytes_before != second.path.read_bytes()
        assert first.checksum == second.checksum == VECTOR_V3.checksum

    def test_nothing_secret_in_repr(self):
        secrets = BundleSecrets.random()
        assert repr(secrets.session_key) not in repr(secrets)
        assert len(secrets.session_key) == len(secrets.iv) == 16

    @pytest.mark.parametrize("method", ["WrapSessionKey", "SignChecksum"])
    def test_wrong_answer(self, server, bundle, method):
        server.corrupt.add(method)
        with pytest.raises(NotVerifiedError, match="does not verify"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)
        assert [p.name for p in bundle.parent.iterdir()] == ["bundle.zip"]

    def test_answers_of_another_key(self, server, bundle):
        server.public_key = capgo.load_public_key(VECTOR_V2.public_pem.read_bytes())
        with pytest.raises(NotVerifiedError):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)
        assert [p.name for p in bundle.parent.iterdir()] == ["bundle.zip"]

    def test_forms_of_two_keys(self, server, bundle):
        server.pkcs1_pem = VECTOR_V2.public_pem.read_text()
        with pytest.raises(NotVerifiedError, match="different public keys"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)

    def test_key_not_opened_yet(self, server, bundle):
        server.show_public_key = False
        with pytest.raises(UnavailableError, match="not opened the key demo"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)
        assert "WrapSessionKey" not in server.methods()

    def test_the_session_key_and_the_checksum_alone_are_sent(self, server, bundle):
        sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)
        assert server.methods() == ["GetKey", "WrapSessionKey", "SignChecksum"]
        assert server.calls[2].request.checksum == VECTOR_V3.hex("plain_sha256_hex")
        assert all(call.request.ByteSize() < 300 for call in server.calls)

    def test_nothing_is_signed_for_another_checksum(self, server, bundle):
        with pytest.raises(InputError, match="CHECKSUM is not that of"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3, expected_checksum=bytes(32))
        assert "SignChecksum" not in server.methods()

    def test_file_that_grows(self, server, bundle, monkeypatch):
        original = _cipher.encrypt_stream

        def grow(source, *arguments, **options):
            with bundle.open("ab") as file:
                file.write(b"more")
            return original(source, *arguments, **options)

        monkeypatch.setattr("privyseal.sealing.encrypt_stream", grow)
        with pytest.raises(InputError, match="changed while it was read"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)

    def test_full_disk(self, server, bundle, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("privyseal.sealing.write_all", full)
        with pytest.raises(WriteError, match="No space left"):
            sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3)
        assert [p.name for p in bundle.parent.iterdir()] == ["bundle.zip"]
        assert "SignChecksum" not in server.methods()

    def test_encryption_runs_while_the_service_is_asked(self, server, bundle, monkeypatch):
        # The file waits for the service, and the service for the file: only both at once get on.
        asked, begun = threading.Event(), threading.Event()
        original = _cipher.encrypt_stream

        def wait_for_service(*arguments, **options):
            begun.set()
            assert asked.wait(20)
            return original(*arguments, **options)

        def before(method):
            if method == "WrapSessionKey":
                assert begun.wait(20)
                asked.set()

        server.before = before
        monkeypatch.setattr("privyseal.sealing.encrypt_stream", wait_for_service)
        assert sealing(server, bundle, scheme=SignatureScheme.CAPGO_V3).checksum == VECTOR_V3.checksum


class TestOpening:
    def open(self, vector: Vector, tmp_path, **changes):
        arguments = {
            "iv_session_key": vector.iv_session_key,
            "checksum": vector.checksum,
            "public_key": capgo.load_public_key(vector.public_pem.read_bytes()),
            "output": tmp_path / "opened",
            **changes,
        }
        path = arguments.pop("path", vector.encrypted)
        return open_bundle(path, **arguments)

    def test_what_the_capgo_cli_sealed(self, vector, tmp_path):
        assert self.open(vector, tmp_path) == vector.hex("plain_sha256_hex")
        assert (tmp_path / "opened").read_bytes() == vector.bundle.read_bytes()

    @given(data=st.data())
    @settings(deadline=None, max_examples=60)
    def test_any_changed_byte(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("changed")
        sealed = bytearray(VECTOR_V3.encrypted.read_bytes())
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
        (folder / "changed").write_bytes(sealed)
        with pytest.raises(NotVerifiedError, match="is not the bundle"):
            self.open(VECTOR_V3, folder, path=folder / "changed")
        assert [p.name for p in folder.iterdir()] == ["changed"]

    @given(data=st.data())
    @settings(deadline=None, max_examples=60)
    def test_any_changed_character(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("changed")
        name = data.draw(st.sampled_from(["iv_session_key", "checksum"]))
        text = list(getattr(VECTOR_V3, name))
        index = data.draw(st.integers(0, len(text) - 1))
        replacement = data.draw(st.sampled_from("0123456789abcdefABCDEFghGH+/=:"))
        if replacement.lower() == text[index].lower():
            return
        text[index] = replacement
        with pytest.raises((NotVerifiedError, InputError)):
            self.open(VECTOR_V3, folder, **{name: "".join(text)})
        assert not list(folder.iterdir())

    @pytest.mark.parametrize("length", [16, 32, 608])
    def test_truncated(self, tmp_path, length):
        (tmp_path / "short").write_bytes(VECTOR_V3.encrypted.read_bytes()[:length])
        with pytest.raises(NotVerifiedError):
            self.open(VECTOR_V3, tmp_path, path=tmp_path / "short")

    def test_existing_output_stays(self, tmp_path):
        (tmp_path / "opened").write_bytes(b"before")
        (tmp_path / "changed").write_bytes(bytes(640))
        with pytest.raises(NotVerifiedError):
            self.open(VECTOR_V3, tmp_path, path=tmp_path / "changed")
        assert (tmp_path / "opened").read_bytes() == b"before"

    def test_default_output(self, tmp_path):
        (tmp_path / "a").write_bytes(VECTOR_V3.encrypted.read_bytes())
        self.open(VECTOR_V3, tmp_path, path=tmp_path / "a", output=None)
        assert (tmp_path / "a_decrypted.zip").read_bytes() == VECTOR_V3.bundle.read_bytes()

    def test_full_disk(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("privyseal.opening.write_all", full)
        with pytest.raises(WriteError, match="No space left"):
            self.open(VECTOR_V3, tmp_path)
        assert not list(tmp_path.iterdir())
