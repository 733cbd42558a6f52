"""`privyseal sign` and `privyseal key certificate` against a server with a software key."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privyseal.errors import InputError
from privyseal.updaters.codepush import content_hash
from privyseal.updaters.expo import check_certificate
from privyseal.v1 import signing_pb2
from tests.fakes.signing_server import Fault
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3

PKCS1 = "rsassa-pkcs1-v1_5-sha256"
SUBJECT = ("--subject", "CN=Example App,O=Example")


@pytest.fixture
def signing(program_here, server):
    """The program's code, pointed at the server."""
    program_here.use(server)
    return program_here


def verify(server, signature: bytes, data: bytes, form=None) -> None:
    server.key.public_key().verify(signature, data, form or padding.PKCS1v15(), SHA256())


def every_way(folder) -> list[list[str]]:
    """A way to call each command, with the files that it needs."""
    (folder / "file").write_bytes(b"{}")
    (folder / "manifest.json").write_text(json.dumps({"bundleId": "1", "assets": {"a": {"fileHash": "00" * 32}}}))
    (folder / "CodePush").mkdir()
    (folder / "CodePush" / "index").write_bytes(b"1")
    return [
        ["sign", "expo", "file"],
        ["sign", "capawesome", "file"],
        ["sign", "hot-updater", "file"],
        ["sign", "hot-updater", "manifest.json", "--assets"],
        ["sign", "codepush", "CodePush"],
        ["sign", "file", "file", "--scheme", PKCS1],
        ["sign", "file", "file", "--scheme", PKCS1, "--output", "file.sig"],
        ["sign", "digest", "00" * 32, "--scheme", PKCS1],
        ["key", "certificate", "--code-signing", *SUBJECT, "--days", "30"],
        ["key", "certificate", "--code-signing", *SUBJECT, "--csr"],
        ["key", "certificate", "--code-signing", *SUBJECT, "--days", "30", "--output", "certificate.pem"],
    ]


WAYS = range(11)


class TestEveryCommand:
    @pytest.mark.parametrize("way", WAYS)
    def test_what_does_not_verify_is_not_written(self, signing, server, way, tmp_path):
        arguments = every_way(tmp_path)[way]
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        server.corrupt |= {"SignChecksum", "BatchSignChecksums"}
        done = signing.run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert "does not verify" in done.sentence()
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("way", WAYS)
    def test_what_the_service_refuses_is_not_written(self, signing, server, way, tmp_path):
        arguments = every_way(tmp_path)[way]
        for method in ("SignChecksum", "BatchSignChecksums"):
            server.fail(method, Fault(grpc.StatusCode.FAILED_PRECONDITION, "the key cannot do that"))
        done = signing.run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert "the key cannot do that" in done.sentence()

    @pytest.mark.parametrize("way", WAYS)
    def test_the_receipts_that_are_wanted_have_to_come(self, signing, way, tmp_path):
        done = signing.run(*every_way(tmp_path)[way], "--receipt", "receipts.json")
        assert (done.code, done.out) == (1, "")
        assert "keeps no audit trail" in done.sentence()

    def test_the_record_says_what_it_was_for(self, signing, server, tmp_path):
        (tmp_path / "file").touch()
        signing.environ |= {"GITLAB_CI": "true", "CI_COMMIT_SHA": "c0ffee", "CI_JOB_URL": "https://ci.example/1"}
        flags = ["--app-id", "com.example.app", "--bundle-version", "1.2", "--revision", "beef"]
        assert signing.run("sign", "capawesome", "file", *flags).code == 0
        context = server.calls[-1].request.context
        assert (context.app_id, context.bundle_version) == ("com.example.app", "1.2")
        assert (context.source_revision, context.build_url) == ("beef", "https://ci.example/1")

    def test_a_key_file_is_explained(self, signing, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "key.pem").write_bytes(VECTOR_V2.private_pem)
        for arguments in (["sign", "capawesome", "file", "--key", "key.pem"],
                          ["key", "certificate", "key.pem", "--code-signing", *SUBJECT, "--csr"]):  # fmt: skip
            done = signing.run(*arguments)
            assert done.code == 2
            assert "privyseal-server key import" in done.sentence()

    @pytest.mark.parametrize("name", ["expo", "capawesome", "hot-updater", "codepush"])
    def test_a_missing_file_is_found_before_the_service_is_asked(self, signing, server, name):
        done = signing.run("sign", name, "missing")
        assert done.code == 2
        assert "missing" in done.sentence()
        assert server.calls == []

    @pytest.mark.parametrize("way", [0, 1, 2, 3, 5])
    def test_receipts_never_take_the_place_of_a_file(self, signing, server, way, tmp_path):
        arguments = every_way(tmp_path)[way]
        (tmp_path / "link").symlink_to(arguments[2])
        before = (tmp_path / arguments[2]).read_bytes()
        for receipt in (arguments[2], "link"):
            done = signing.run(*arguments, "--receipt", receipt)
            assert done.code == 2
            assert f"{receipt} is named for two things" in done.sentence()
        assert (tmp_path / arguments[2]).read_bytes() == before
        assert server.calls == []

    def test_a_signature_never_takes_the_place_of_its_file(self, signing, server, tmp_path):
        (tmp_path / "file").write_bytes(b"content")
        done = signing.run("sign", "file", "file", "--scheme", PKCS1, "--output", "./file")
        assert (done.code, server.calls) == (2, [])
        assert "is named for two things" in done.sentence()
        assert (tmp_path / "file").read_bytes() == b"content"


class TestPlain:
    def test_a_file_in_each_encoding(self, signing, server, tmp_path):
        (tmp_path / "file").write_bytes(b"content")
        arguments = ["sign", "file", "file", "--scheme", PKCS1, "--key", "demo"]
        for encoding, decode in (("base64", base64.b64decode), ("hex", bytes.fromhex)):
            done = signing.run(*arguments, "--encoding", encoding, "--output", encoding)
            assert (done.code, done.out) == (0, "")
            verify(server, decode((tmp_path / encoding).read_text().rstrip("\n")), b"content")
            assert signing.run(*arguments, "--encoding", encoding).out == (tmp_path / encoding).read_text()
        assert signing.run(*arguments, "--encoding", "raw", "--output", "raw").code == 0
        verify(server, (tmp_path / "raw").read_bytes(), b"content")

    def test_raw_bytes_to_a_pipe(self, program, server, tmp_path):
        (tmp_path / "file").write_bytes(b"content")
        program.use(server)
        out, _ = program.start("sign", "file", "file", "--scheme", PKCS1, "--encoding", "raw").communicate(timeout=200)
        verify(server, out, b"content")

    def test_pss_of_a_digest(self, signing, server):
        digest = sha256(b"content").hexdigest()
        done = signing.run("sign", "digest", digest, "--scheme", "rsassa-pss-sha256", "--encoding", "hex")
        pss = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)
        verify(server, bytes.fromhex(done.out.strip()), b"content", pss)

    @pytest.mark.parametrize("scheme", [PKCS1, "capgo-v2", "capgo-v3"])
    def test_checksum_sign_is_the_same_as_capgo_writes_it(self, signing, scheme):
        digest = sha256(b"data").hexdigest()
        encoding = "hex" if scheme == "capgo-v3" else "base64"
        wanted = signing.run("sign", "digest", digest, "--scheme", scheme, "--encoding", encoding)
        done = signing.run("checksum", "sign", digest, "--scheme", scheme)
        assert (done.code, done.out) == (0, wanted.out), done.err

    def test_what_is_no_digest(self, signing, server):
        done = signing.run("sign", "digest", "abc", "--scheme", PKCS1)
        assert (done.code, server.calls) == (1, [])
        assert "not a SHA-256" in done.sentence()

    def test_a_scheme_must_be_named(self, signing, tmp_path):
        (tmp_path / "file").touch()
        assert signing.run("sign", "file", "file").code == 2


class TestExpo:
    def test_the_header(self, signing, server, tmp_path):
        (tmp_path / "manifest.json").write_bytes(b'{"id": "1"}\r\n')
        done = signing.run("sign", "expo", "manifest.json", "--keyid", "other")
        sig, keyid, alg = done.out.rstrip("\n").split(", ")
        verify(server, base64.b64decode(sig.removeprefix('sig="').removesuffix('"')), b'{"id": "1"}\r\n')
        assert (keyid, alg) == ('keyid="other"', 'alg="rsa-v1_5-sha256"')

    def test_a_key_id_that_does_not_fit_costs_no_signature(self, signing, server, tmp_path):
        (tmp_path / "manifest.json").write_text("{}")
        assert signing.run("sign", "expo", "manifest.json", "--keyid", "ö").code == 1
        assert server.calls == []

    def test_the_certificate_of_the_app(self, signing, tmp_path):
        (tmp_path / "manifest.json").write_text("{}")
        make = ["key", "certificate", "--code-signing", *SUBJECT, "--days", "30", "--output", "certificate.pem"]
        assert signing.run(*make).code == 0
        assert signing.run("sign", "expo", "manifest.json", "--certificate", "certificate.pem").code == 0

    def test_a_certificate_of_another_key(self, signing, server, tmp_path):
        (tmp_path / "manifest.json").write_text("{}")
        make = ["key", "certificate", "--code-signing", *SUBJECT, "--days", "30", "--output", "certificate.pem"]
        assert signing.run(*make).code == 0
        server.key, server.public_key = make_other_key(), None
        done = signing.run("sign", "expo", "manifest.json", "--certificate", "certificate.pem")
        assert (done.code, done.out) == (1, "")
        assert "for another key" in done.sentence()

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"--x\r\n\r\n{}", b"\xef\xbb\xbf{}", b'{"a": "\xff"}', b"[" * 100_000]
    )
    def test_what_is_no_body(self, signing, server, tmp_path, body):
        (tmp_path / "manifest.json").write_bytes(body)
        done = signing.run("sign", "expo", "manifest.json")
        assert (done.code, server.calls) == (1, [])
        assert "not a manifest or directive" in done.sentence()

    def test_what_is_no_certificate(self, signing, tmp_path):
        (tmp_path / "manifest.json").write_text("{}")
        done = signing.run("sign", "expo", "manifest.json", "--certificate", "manifest.json")
        assert done.code == 1
        assert "not a certificate" in done.sentence()


def make_other_key():
    return load_pem_private_key(VECTOR_V2.private_pem, None)


class TestHotUpdater:
    def test_a_file(self, signing, server, tmp_path):
        (tmp_path / "bundle.zip").write_bytes(b"content")
        done = signing.run("sign", "hot-updater", "bundle.zip")
        assert done.out.startswith("sig:")
        verify(server, base64.b64decode(done.out.removeprefix("sig:")), sha256(b"content").digest())

    def test_the_assets_of_a_manifest(self, signing, server, tmp_path):
        hashes = {f"a{number}": sha256(bytes([number])).digest() for number in range(5)}
        assets = {name: {"fileHash": digest.hex()} for name, digest in hashes.items()}
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({"bundleId": "1", "assets": assets}))
        done = signing.run("sign", "hot-updater", "manifest.json", "--assets")
        assert done.code == 0, done.err
        signed = json.loads(path.read_text())
        for name, digest in hashes.items():
            assert signed["assets"][name]["fileHash"] == digest.hex()
            verify(server, base64.b64decode(signed["assets"][name]["signature"]), digest)
        verify(server, base64.b64decode(done.out.removeprefix("sig:")), sha256(path.read_bytes()).digest())
        assert server.methods() == ["GetKey", "BatchSignChecksums", "SignChecksum"]

    def test_an_asset_that_is_not_signed_leaves_the_manifest_as_it_was(self, signing, server, tmp_path):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({"assets": {name: {"fileHash": "00" * 32} for name in "abc"}}))
        before = path.read_bytes()
        server.batch_errors[1] = (grpc.StatusCode.FAILED_PRECONDITION.value[0], "the key is frozen")
        done = signing.run("sign", "hot-updater", "manifest.json", "--assets")
        assert (done.code, done.out) == (1, "")
        assert "the key is frozen" in done.sentence()
        assert path.read_bytes() == before

    def test_another_output(self, signing, tmp_path):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({"assets": {}}))
        done = signing.run("sign", "hot-updater", "manifest.json", "--assets", "--output", "signed.json")
        assert done.code == 0
        assert json.loads((tmp_path / "signed.json").read_text()) == {"assets": {}}
        assert signing.run("sign", "hot-updater", "manifest.json", "--output", "x").code == 2

    def test_what_is_no_manifest(self, signing, server, tmp_path):
        (tmp_path / "x").write_text("[]")
        assert signing.run("sign", "hot-updater", "x", "--assets").code == 1
        assert server.calls == []


class TestCodePush:
    def test_a_folder(self, signing, server, tmp_path):
        folder = tmp_path / "CodePush"
        (folder / "assets").mkdir(parents=True)
        (folder / "main.jsbundle").write_bytes(b"1")
        (folder / "assets" / "a.png").write_bytes(b"2")
        started = int(datetime.now(UTC).timestamp())
        first = signing.run("sign", "codepush", "CodePush")
        assert (first.code, first.out) == (0, "CodePush/.codepushrelease\n"), first.err
        signed, _, signature = (folder / ".codepushrelease").read_bytes().rpartition(b".")
        verify(server, base64.urlsafe_b64decode(signature + b"=="), signed)
        claims = json.loads(base64.urlsafe_b64decode(signed.split(b".")[1] + b"=="))
        assert claims["contentHash"] == content_hash(
            {"CodePush/main.jsbundle": sha256(b"1").digest(), "CodePush/assets/a.png": sha256(b"2").digest()}
        )
        assert started <= claims["iat"] <= datetime.now(UTC).timestamp()
        # Signed again, its own release file does not count.
        again = signing.run("sign", "codepush", "CodePush", "--output", "release.jwt")
        assert (again.code, again.out) == (0, "release.jwt\n")
        assert claims["contentHash"] in again.err

    def test_another_name_is_told(self, signing, tmp_path):
        (tmp_path / "www").mkdir()
        (tmp_path / "www" / "index.html").touch()
        done = signing.run("sign", "codepush", "www")
        assert done.code == 0
        assert "Warning: www is not called CodePush" in done.err

    def test_a_release_file_that_is_a_link_is_not_followed(self, signing, server, tmp_path):
        (tmp_path / "CodePush").mkdir()
        (tmp_path / "CodePush" / "index").touch()
        (tmp_path / "precious").write_text("as it was")
        (tmp_path / "CodePush" / ".codepushrelease").symlink_to("../precious")
        done = signing.run("sign", "codepush", "CodePush")
        assert (done.code, server.calls) == (1, [])
        assert "is a link" in done.sentence()
        assert (tmp_path / "precious").read_text() == "as it was"

    def test_an_empty_folder(self, signing, server, tmp_path):
        (tmp_path / "CodePush").mkdir()
        done = signing.run("sign", "codepush", "CodePush")
        assert done.code == 1
        assert "no files" in done.sentence()
        assert server.calls == []


class TestCertificate:
    def test_it_is_for_code_signing_alone_and_verifies(self, signing, server):
        before = datetime.now(UTC).replace(microsecond=0)
        done = signing.run("key", "certificate", "demo", "--code-signing", *SUBJECT, "--days", "365")
        certificate = x509.load_pem_x509_certificate(done.out.encode())
        certificate.verify_directly_issued_by(certificate)
        assert certificate.public_key() == server.key.public_key()
        assert certificate.subject.rfc4514_string() == "CN=Example App,O=Example"
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=365)
        assert before <= certificate.not_valid_before_utc <= datetime.now(UTC)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert len(certificate.extensions) == 2
        assert (usage.critical, purposes.critical) == (True, True)
        assert usage.value.digital_signature
        assert {usage.value.key_cert_sign, usage.value.crl_sign, usage.value.content_commitment} == {False}
        assert list(purposes.value) == [ExtendedKeyUsageOID.CODE_SIGNING]
        assert server.calls[-1].request.scheme == signing_pb2.SIGNATURE_SCHEME_RSASSA_PKCS1_V1_5_SHA256

    def test_no_two_have_one_serial_number(self, signing):
        made = [
            x509.load_pem_x509_certificate(
                signing.run("key", "certificate", "--code-signing", *SUBJECT, "--days", "1").out.encode()
            )
            for _ in range(2)
        ]
        assert made[0].serial_number != made[1].serial_number

    def test_a_request(self, signing, server):
        done = signing.run("key", "certificate", "--code-signing", *SUBJECT, "--csr")
        request = x509.load_pem_x509_csr(done.out.encode())
        assert request.is_signature_valid
        assert request.public_key() == server.key.public_key()
        assert request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "Example App"
        purposes = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(purposes) == [ExtendedKeyUsageOID.CODE_SIGNING]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([*SUBJECT, "--days", "1"], "--code-signing"),
            (["--code-signing", *SUBJECT], "--days"),
            (["--code-signing", *SUBJECT, "--days", "1", "--csr"], "--days"),
            (["--code-signing", *SUBJECT, "--days", "0"], "--days"),
            (["--code-signing", *SUBJECT, "--days", "40000"], "--days"),
            (["--code-signing", "--days", "1"], "--subject"),
        ],
    )
    def test_wrong_usage(self, signing, server, arguments, said):
        done = signing.run("key", "certificate", *arguments)
        assert (done.code, server.calls) == (2, [])
        assert said in done.sentence()

    @pytest.mark.parametrize("subject", ["Example", "", "O=Example", "CN=a,,", "XX=a"])
    def test_a_subject_that_is_none(self, signing, server, subject):
        done = signing.run("key", "certificate", "--code-signing", "--subject", subject, "--days", "1")
        assert (done.code, server.calls) == (1, [])
        assert "RFC 4514" in done.sentence()
        assert "()" not in done.sentence()


def test_expired_and_unfit_certificates_are_told():
    key = load_pem_private_key(VECTOR_V3.private_pem, None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    start = datetime(2030, 1, 1, tzinfo=UTC)
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=30))
    )
    pem = bare.sign(key, SHA256()).public_bytes(Encoding.PEM)
    for now, said in (
        (start - timedelta(seconds=1), "valid from 2030-01-01 to 2030-01-31"),
        (start + timedelta(days=30, seconds=1), "valid from 2030-01-01 to 2030-01-31"),
        (start, "digitalSignature"),
    ):
        with pytest.raises(InputError, match=said):
            check_certificate(pem, key.public_key(), now)
