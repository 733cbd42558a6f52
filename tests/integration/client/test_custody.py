"""The custody report: what it says of each key, what it says of itself, and when it is not whole."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from privyseal import capgo
from privyseal.configuration import Connection
from privyseal.custody import asked_as, custody_report, place
from privyseal.errors import FileUnusableError, NotVerifiedError
from privyseal.model import Custody, Evidence, Finding, Key, KeyState, PublicKey, SignatureScheme, WrapScheme
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3
from tests.support.pki import CA

NOW = datetime.datetime(2024, 2, 29, 13, 5, 9, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
HERE = Connection("127.0.0.1:1", insecure=True)


def shown(pem: Path, **changes: str) -> PublicKey:
    key = capgo.load_public_key(pem.read_bytes())
    texts = {"spki_pem": capgo.spki_pem(key), "pkcs1_pem": capgo.pkcs1_pem(key), "fingerprint": capgo.fingerprint(key)}
    return PublicKey(**{**texts, **changes}, capgo_key_id=capgo.key_id(key), modulus_bits=key.key_size)


def key(name: str = "demo", evidence: tuple[Evidence, ...] = (), **changes: object) -> Key:
    finding = Finding("unknown", ("nobody says.",))
    fields = {
        "key_version": "01ab",
        "state": KeyState.SERVING,
        "wrap_schemes": (WrapScheme.CAPGO,),
        "signature_schemes": (SignatureScheme.CAPGO_V3,),
        "public_key": shown(VECTOR_V3.public_pem),
        "custody": Custody(finding, finding, finding, evidence),
        **changes,
    }
    return Key(name, **fields)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (
            {
                "CKA_SENSITIVE": "true",
                "token.label": "release",
                "token.serial": "99",
                "token.manufacturer": "Cavium",
                "token.model": "NITROX",
                "token.firmware": "2.3",
                "module.path": "/opt/m.so",
            },
            "token release, serial 99, manufacturer Cavium, model NITROX, firmware 2.3, module /opt/m.so",
        ),
        ({"token.label": "release", "token.serial": ""}, "token release"),
        (
            {"Arn": "arn:aws:kms:x", "Origin": "AWS_KMS", "endpoint.url": "https://kms"},
            "AWS KMS key arn:aws:kms:x, endpoint https://kms",
        ),
        (
            {"Arn": "arn:aws:kms:x", "CloudHsmClusterId": "cluster-1"},
            "AWS KMS key arn:aws:kms:x, CloudHSM cluster cluster-1",
        ),
        (
            {"name": "projects/p/1", "protection level": "HSM"},
            "Google Cloud KMS key version projects/p/1, protection level HSM",
        ),
        ({"drawer": "third from above"}, ""),
        ({}, ""),
    ],
)
def test_a_place_is_told_in_the_words_of_its_store(evidence, words):
    assert place(evidence) == words


def test_a_key_in_a_store_of_another_kind_lives_under_its_version():
    report = custody_report([key(evidence=(Evidence("drawer", "third from above"),))], HERE, NOW)
    assert report.keys[0].lives_in == "01ab"
    assert report.keys[0].custody.evidence == (Evidence("drawer", "third from above"),)


def test_the_report_says_when_of_whom_and_how_far():
    report = custody_report([key("a"), key("b")], HERE, NOW)
    assert report.made_at == "2024-02-29T12:05:09Z"
    assert report.server == "127.0.0.1:1"
    assert [(each.name, each.algorithm, each.granted) for each in report.keys] == [
        (name, "RSA-2048", ("capgo", "capgo-v3")) for name in ("a", "b")
    ]
    assert "shows nobody the grants of others" in report.note
    assert report.silent == ()


def test_a_fingerprint_that_is_not_the_public_keys_is_not_reported():
    wrong = capgo.fingerprint(capgo.load_public_key(VECTOR_V2.public_pem.read_bytes()))
    with pytest.raises(NotVerifiedError, match="different public keys for demo"):
        custody_report([key(public_key=shown(VECTOR_V3.public_pem, fingerprint=wrong))], HERE, NOW)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"uris": ["spiffe://example/ci"], "dns": ["ci.example"]}, "spiffe://example/ci, dns:ci.example"),
        ({"common_name": "ci"}, "CN=ci"),
        ({"ips": ["127.0.0.1"]}, "no name"),
    ],
)
def test_the_caller_is_named_as_its_certificate_does(tmp_path, names, said):
    cert, cert_key = CA().issue(**names).write(tmp_path, "client")
    assert asked_as(Connection("s:1", cert=cert, cert_key=cert_key)) == f"the certificate of {said}"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_read(tmp_path, content):
    cert = tmp_path / "client.pem"
    if content is not None:
        cert.write_bytes(content)
    with pytest.raises(FileUnusableError, match="cannot be read as a certificate"):
        asked_as(Connection("s:1", cert=cert, cert_key=cert))


def test_a_caller_without_a_certificate():
    assert asked_as(Connection("s:1", token="secret")) == "a bearer token"
    assert asked_as(Connection("s:1", token_file=Path("t"))) == "a bearer token"
    assert asked_as(Connection("s:1", token_command="t")) == "a bearer token"
    assert asked_as(HERE).startswith("nobody in particular")


class TestProgram:
    @pytest.fixture
    def served(self, program, server):
        program.use(server)
        return program

    def test_text(self, served, server):
        server.evidence = ("token.label", "release")
        result = served.run("key", "custody")
        assert result.code == 0
        lines = result.out.splitlines()
        for line in (
            "Custody of  1 key",
            "Asked as    nobody in particular: the connection proves no identity",
            "Key           demo",
            "Lives in      token release",
            "Algorithm     RSA-2048",
            "Granted       capgo, capgo-v2, capgo-v3 (to the caller who asked)",
            "Protection    software",
            "              - the key is in the memory of a test",
            "Export        possible",
            "Evidence      token.label = release",
        ):
            assert line in lines
        assert f"Service     {server.address}" in result.out.replace("http://", "")

    def test_json(self, served, server):
        report = json.loads(served.run("key", "custody", "--json").out)
        assert set(report) == {"made_at", "server", "asked_as", "note", "keys"}
        (found,) = report["keys"]
        (listed,) = json.loads(served.run("key", "list", "--json").out)
        assert found["custody"] == listed["custody"]
        assert found["public_key"] == listed["public_key"]
        assert (found["state"], found["granted"]) == ("serving", ["capgo", "capgo-v2", "capgo-v3"])
        made_at = datetime.datetime.fromisoformat(report["made_at"])
        assert made_at.tzinfo is not None

    @pytest.mark.parametrize("flags", [(), ("--json",)])
    def test_a_key_that_was_not_opened_makes_it_incomplete(self, served, server, flags):
        server.show_public_key = False
        result = served.run("key", "custody", *flags)
        assert result.code == 3
        assert "demo" in result.out
        assert "the report lacks demo, which the service has not opened yet" in result.sentence()

    def test_nothing_to_report(self, served, server):
        server.hidden = True
        result = served.run("key", "custody")
        assert result.code == 0
        assert "Custody of  0 keys" in result.out
        assert json.loads(served.run("key", "custody", "--json").out)["keys"] == []

    def test_other_forms_of_the_key_are_refused(self, served, server):
        server.pkcs1_pem = VECTOR_V2.public_pem.read_text()
        result = served.run("key", "custody")
        assert (result.code, result.out) == (1, "")
        assert "different public keys" in result.sentence()

    def test_long_evidence_is_cut_in_the_text_alone(self, served, server):
        server.evidence = ("attestation content", "ab" * 5000)
        assert "ab … (9622 more characters)" in served.run("key", "custody").out
        assert "ab" * 5000 in served.run("key", "custody", "--json").out

    def test_with_a_certificate(self, program, mutual_server, pki):
        result = program.run("key", "custody", "--server", mutual_server.address, *pki.flags())
        assert "Asked as    the certificate of dns:build.example" in result.out.splitlines()
