"""`privyseal bundle decrypt`, the real program: it needs no service, and leaves a plain file only when all holds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privyseal import capgo
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3, Vector, flip
from tests.support.client_program import DEFAULT_SIGNALS

DECRYPT = ("bundle", "decrypt")


@pytest.fixture
def sealed(program) -> Path:
    """The encrypted zip of the V3 vector, in the program's folder."""
    path = program.folder / "app.zip"
    path.write_bytes(VECTOR_V3.encrypted.read_bytes())
    return path


def arguments(vector: Vector = VECTOR_V3, **changes: object) -> tuple[object, ...]:
    given = {
        "path": "app.zip",
        "iv_session_key": vector.iv_session_key,
        "public_key": vector.public_pem,
        "checksum": vector.checksum,
        **changes,
    }
    return (
        *DECRYPT,
        given["path"],
        given["iv_session_key"],
        "--public-key",
        given["public_key"],
        "--checksum",
        given["checksum"],
    )


class TestGood:
    def test_vectors(self, program, vector):
        (program.folder / "app.zip").write_bytes(vector.encrypted.read_bytes())
        result = program.run(*arguments(vector))
        assert result.code == 0, result.err
        assert result.out == "app.zip_decrypted.zip\n"
        assert vector.facts["plain_sha256_hex"] in result.err
        assert (program.folder / "app.zip_decrypted.zip").read_bytes() == vector.bundle.read_bytes()
        assert program.files() == {"app.zip", "app.zip_decrypted.zip"}

    def test_output(self, program, sealed):
        (program.folder / "out.zip").write_bytes(b"before")
        result = program.run(*arguments(), "--output", "out.zip")
        assert (result.code, result.out) == (0, "out.zip\n")
        assert (program.folder / "out.zip").read_bytes() == VECTOR_V3.bundle.read_bytes()

    def test_spki(self, program, sealed):
        pem = capgo.spki_pem(capgo.load_public_key(VECTOR_V3.public_pem.read_bytes()))
        (program.folder / "spki.pem").write_text(pem)
        assert program.run(*arguments(public_key="spki.pem")).code == 0

    def test_public_key_from_a_pipe(self, program, sealed):
        reader, writer = os.pipe()
        os.write(writer, VECTOR_V3.public_pem.read_bytes())
        os.close(writer)
        result = program.run(*arguments(public_key="/dev/stdin"), stdin=reader)
        os.close(reader)
        assert result.code == 0, result.err

    def test_it_reads_no_configuration(self, program, sealed):
        (program.folder / "privyseal.toml").write_text("not TOML")
        program.environ["PRIVYSEAL_SERVER"] = "not an address"
        assert program.run(*arguments()).code == 0


IV, WRAPPED = VECTOR_V3.iv_session_key.split(":")


class TestBad:
    def refused(self, program, code, says, given, prelude=None):
        before = program.files()
        result = program.run(*given) if prelude is None else program.run_after(prelude, *given)
        assert result.code == code, result.err
        assert says in result.sentence()
        assert result.out == ""
        assert program.files() == before

    @pytest.mark.parametrize("index", [0, 15, 16, 300, 607, 608, 623])
    def test_flipped_byte_of_the_bundle(self, program, sealed, index):
        data = bytearray(sealed.read_bytes())
        data[index] ^= 0x80
        sealed.write_bytes(data)
        self.refused(program, 1, "app.zip is not the bundle whose checksum was signed", arguments())

    @pytest.mark.parametrize("index", [0, 15])
    def test_flipped_byte_of_the_iv(self, program, sealed, index):
        changed = f"{flip(IV, index)}:{WRAPPED}"
        self.refused(program, 1, "is not the bundle whose checksum", arguments(iv_session_key=changed))

    @pytest.mark.parametrize("index", [0, 255])
    def test_flipped_byte_of_the_wrapped_key(self, program, sealed, index):
        changed = f"{IV}:{flip(WRAPPED, index)}"
        self.refused(program, 1, "the session key was not wrapped by the owner", arguments(iv_session_key=changed))

    @pytest.mark.parametrize("index", [0, 255])
    def test_flipped_byte_of_the_checksum(self, program, sealed, index):
        data = bytearray(bytes.fromhex(VECTOR_V3.checksum))
        data[index] ^= 1
        self.refused(program, 1, "the checksum was not signed by the owner", arguments(checksum=data.hex()))

    @pytest.mark.parametrize(
        "text", ["", "x", IV, f"{IV}:", f"{IV}:{WRAPPED}:{WRAPPED}", f"{IV}:{WRAPPED[:-1]}", f"{IV}:{WRAPPED[:100]}"]
    )
    def test_malformed_iv_session_key(self, program, sealed, text):
        self.refused(program, 1, "pass the ivSessionKey that `bundle encrypt` printed", arguments(iv_session_key=text))

    @pytest.mark.parametrize("text", ["", "x", VECTOR_V3.checksum[:-1], VECTOR_V3.facts["plain_sha256_hex"]])
    def test_malformed_checksum(self, program, sealed, text):
        self.refused(program, 1, "pass the checksum that `bundle encrypt` printed", arguments(checksum=text))

    def test_checksum_of_the_other_format(self, program, sealed):
        other = capgo.format_checksum(VECTOR_V2.scheme, VECTOR_V3.hex("rsa_output_checksum_hex"))
        self.refused(program, 1, "the checksum was not signed", arguments(checksum=other))

    def test_wrong_public_key(self, program, sealed):
        self.refused(
            program, 1, "check that IV_SESSION_KEY and the public key", arguments(public_key=VECTOR_V2.public_pem)
        )

    def test_parts_of_another_bundle(self, program, sealed):
        self.refused(program, 1, "was not signed", arguments(checksum=VECTOR_V2.checksum))

    def test_private_key_where_a_public_one_is_meant(self, program, sealed):
        self.refused(program, 1, "this is a private key", arguments(public_key=VECTOR_V3.folder / "private.pem"))

    def test_no_public_key(self, program, sealed):
        self.refused(program, 1, "app.zip: this is not a public key in PEM", arguments(public_key="app.zip"))
        self.refused(program, 2, "none.pem: no such file", arguments(public_key="none.pem"))
        self.refused(program, 2, ". is a folder", arguments(public_key="."))

    def test_larger_key(self, program, sealed):
        key = rsa.generate_private_key(65537, 3072).public_key()
        (program.folder / "p.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.PKCS1))
        self.refused(program, 1, "RSA-3072; devices of Capgo accept only RSA-2048", arguments(public_key="p.pem"))

    def test_files(self, program, sealed):
        (program.folder / "empty").touch()
        (program.folder / "odd").write_bytes(bytes(17))
        (program.folder / "folder").mkdir()
        self.refused(program, 2, "none: no such file", arguments(path="none"))
        self.refused(program, 2, "folder is a folder", arguments(path="folder"))
        self.refused(program, 1, "empty is empty", arguments(path="empty"))
        self.refused(program, 1, "odd is not an encrypted bundle, or not a whole one", arguments(path="odd"))

    def test_output(self, program, sealed):
        self.refused(program, 2, "none/out: no such folder", (*arguments(), "--output", "none/out"))
        self.refused(program, 2, "app.zip is the input itself", (*arguments(), "--output", "app.zip"))
        self.refused(program, 2, ". is a folder", (*arguments(), "--output", "."))

    def test_full_disk(self, program, sealed):
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
        self.refused(program, 1, "app.zip_decrypted.zip cannot be written (File too large)", arguments(), limit)

    @pytest.mark.parametrize("flag", ["--public-key", "--checksum"])
    def test_missing_flag(self, program, sealed, flag):
        given = list(map(str, arguments()))
        index = given.index(flag)
        del given[index : index + 2]
        self.refused(program, 2, f"Missing option '{flag}'", given)


def test_signal_leaves_nothing(program):
    # The public key comes from a pipe that stays silent until the signal.
    (program.folder / "app.zip").write_bytes(VECTOR_V3.encrypted.read_bytes())
    os.mkfifo(program.folder / "pipe")
    process = program.start_after(DEFAULT_SIGNALS, *arguments(public_key="pipe"))
    with (program.folder / "pipe").open("wb"):  # it opens when the program opens its end
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert program.files() == {"app.zip", "pipe"}
