"""The offline check of an HSM's attestation: each link, broken alone."""

import base64
import gzip
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privyseal_backends.google_kms.attestation import (
    ATTRIBUTES,
    KEY,
    MANUFACTURER,
    MAX_CONTENT_BYTES,
    NAME,
    OWNER,
    SIGNATURE,
    Attribute,
    Outcome,
    check,
    parse,
    unpack,
)
from privyseal_backends.google_kms.attestation_chain import load_roots
from privyseal_backends.google_kms.facts import Attestation, KeyFacts
from privyseal_backends.interface import PublicKey
from tests.fakes.google_kms import hsm as device

VERSION = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
NOW = datetime.now(UTC)


def key():
    return device.rsa_key(2048, 1).public_key()


def other_key():
    return device.rsa_key(2048, 2).public_key()


def pem(certificate):
    return certificate.public_bytes(Encoding.PEM).decode()


def attestation(content=None, hsm=None, **fields):
    hsm = hsm or device.hsm()
    made = Attestation(
        "CAVIUM_V2_COMPRESSED",
        hsm.attest(VERSION, key()) if content is None else content,
        hsm.manufacturer_chain,
        hsm.owner_card_chain,
        hsm.owner_partition_chain,
    )
    return replace(made, **fields)


def report(made, roots=None, now=NOW, public=None, name=VERSION):
    facts = KeyFacts(name, "ENABLED", "HSM", "RSA_SIGN_RAW_PKCS1_2048", attestation=made)
    roots_pem = device.hsm().roots_pem if roots is None else roots
    return check(facts, PublicKey(public or key()), load_roots(roots_pem.encode()) if roots_pem else (), now)


def outcome(answer, about):
    return {check.about: check.outcome for check in answer.checks}[about]


def sentence(answer, about):
    return {check.about: check.sentence for check in answer.checks}[about]


class TestProof:
    def test_all_holds(self):
        answer = report(attestation())
        assert answer.proven
        assert not answer.contradicted

    def test_what_nothing_offline_tells_is_said(self):
        answer = report(attestation())
        assert [check.about for check in answer.checks if check.outcome is Outcome.NOT_DONE] == ["revocation"]

    def test_without_roots_nothing_is_proven_and_nothing_contradicted(self):
        answer = report(attestation(), roots="")
        assert not answer.proven
        assert not answer.contradicted
        assert outcome(answer, MANUFACTURER) is outcome(answer, OWNER) is Outcome.NOT_DONE
        assert "attestation_roots" in sentence(answer, MANUFACTURER)
        assert "was not checked" in sentence(answer, SIGNATURE)

    def test_the_manufacturers_root_alone_is_not_enough(self):
        answer = report(attestation(), roots=pem(device.hsm().manufacturer_root))
        assert outcome(answer, MANUFACTURER) is Outcome.PASSED
        assert outcome(answer, OWNER) is Outcome.FAILED
        assert not answer.proven

    def test_a_chain_may_come_with_its_root(self):
        hsm = device.hsm()
        whole = (*hsm.manufacturer_chain, pem(hsm.manufacturer_root))
        owner = (*hsm.owner_card_chain, pem(hsm.owner_root))
        assert report(attestation(manufacturer_chain=whole, owner_card_chain=owner)).proven

    def test_a_root_that_was_issued_again_serves(self):
        hsm, maker = device.hsm(), device.rsa_key(2048, 100)
        old = device.certificate("maker root", maker, "maker root", maker, began=NOW - timedelta(days=4000), days=3650)
        assert report(attestation(), roots=pem(old) + hsm.roots_pem).proven
        assert not report(attestation(), roots=pem(old) + pem(hsm.owner_root)).proven


class TestChains:
    def test_foreign_roots_are_refused(self):
        stranger = device.rsa_key(2048, 3)
        foreign = pem(device.certificate("maker root", stranger, "maker root", stranger))
        answer = report(attestation(), roots=foreign)
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED
        assert outcome(answer, OWNER) is Outcome.NOT_DONE
        assert answer.contradicted

    @pytest.mark.parametrize("later", [timedelta(days=400), timedelta(days=-10)])
    def test_certificates_must_be_valid_now(self, later):
        answer = report(attestation(), now=NOW + later)
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED
        assert "valid" in sentence(answer, MANUFACTURER)

    def test_one_root_cannot_stand_for_both(self):
        hsm = device.hsm()
        maker, card, partition = (device.rsa_key(2048, index) for index in (100, 102, 103))
        as_owner = {
            "owner_card_chain": (pem(device.certificate("card", card, "maker root", maker)),),
            "owner_partition_chain": (pem(device.certificate("card:partition", partition, "maker root", maker)),),
        }
        answer = report(attestation(**as_owner), roots=hsm.roots_pem)
        assert outcome(answer, OWNER) is Outcome.FAILED
        assert "Google's own" in sentence(answer, OWNER)

    def test_card_and_partition_must_have_one_owner(self):
        stranger, partition = device.rsa_key(2048, 3), device.rsa_key(2048, 103)
        foreign_root = device.certificate("stranger", stranger, "stranger", stranger)
        foreign = pem(device.certificate("card:partition", partition, "stranger", stranger))
        roots = device.hsm().roots_pem + pem(foreign_root)
        answer = report(attestation(owner_partition_chain=(foreign,)), roots=roots)
        assert "two roots" in sentence(answer, OWNER)
        assert answer.contradicted

    @pytest.mark.parametrize("chain", ["owner_card_chain", "owner_partition_chain"])
    def test_google_must_certify_the_same_card_and_partition(self, chain):
        owner, another = device.rsa_key(2048, 101), device.rsa_key(2048, 4)
        swapped = (pem(device.certificate("card", another, "owner root", owner)),)
        answer = report(attestation(**{chain: swapped}))
        assert outcome(answer, OWNER) is Outcome.FAILED
        assert "another card or partition" in sentence(answer, OWNER)

    def test_the_card_must_have_issued_the_partition(self):
        hsm = device.hsm()
        another = device.rsa_key(2048, 4)
        loose = pem(device.certificate("card:partition", device.rsa_key(2048, 103), "card", another))
        answer = report(attestation(manufacturer_chain=(loose, hsm.manufacturer_chain[1])))
        assert "did not issue" in sentence(answer, MANUFACTURER)

    def test_a_partition_certificate_cannot_issue_another(self):
        hsm, partition, stranger = device.hsm(), device.rsa_key(2048, 103), device.rsa_key(2048, 4)
        forged = pem(device.certificate("mine", stranger, "card:partition", partition))
        chain = (forged, *hsm.manufacturer_chain)
        answer = report(attestation(manufacturer_chain=chain))
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED

    @pytest.mark.parametrize(
        "chain",
        [
            (),
            ("junk",),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",),
            device.hsm().owner_card_chain,
        ],
        ids=["none", "junk", "not a certificate", "one"],
    )
    def test_a_chain_that_cannot_be_read_fails(self, chain):
        answer = report(attestation(manufacturer_chain=chain))
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED
        assert not answer.proven

    @pytest.mark.parametrize("count", [1, 4])
    def test_a_chain_has_one_shape(self, count):
        chain = (device.hsm().manufacturer_chain * 2)[:count]
        answer = report(attestation(manufacturer_chain=chain))
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED
        assert "not a partition's and a card's" in sentence(answer, MANUFACTURER)

    def test_short_keys_are_refused(self):
        hsm, short = device.hsm(), device.rsa_key(1024, 1)
        weak = pem(device.certificate("card:partition", short, "card", device.rsa_key(2048, 102)))
        answer = report(attestation(manufacturer_chain=(weak, hsm.manufacturer_chain[1])))
        assert "2048" in sentence(answer, MANUFACTURER)


class TestSignature:
    def test_a_changed_byte_breaks_it(self):
        blob = bytearray(gzip.decompress(device.hsm().attest(VERSION, key())))
        blob[20] ^= 1  # a handle: nothing else reads it
        answer = report(attestation(gzip.compress(bytes(blob))))
        assert outcome(answer, SIGNATURE) is Outcome.FAILED
        assert answer.contradicted

    def test_another_partition_did_not_sign_it(self):
        stranger = replace(device.hsm(), partition_key=device.rsa_key(2048, 4))
        answer = report(attestation(stranger.attest(VERSION, key())))
        assert outcome(answer, SIGNATURE) is Outcome.FAILED

    def test_it_is_checked_even_without_roots(self):
        stranger = replace(device.hsm(), partition_key=device.rsa_key(2048, 4))
        answer = report(attestation(stranger.attest(VERSION, key())), roots="")
        assert answer.contradicted

    def test_without_a_certificate_it_cannot_be(self):
        answer = report(attestation(manufacturer_chain=()), roots="")
        assert outcome(answer, SIGNATURE) is Outcome.NOT_DONE


def attested(**changes):
    return attestation(device.hsm().attest(VERSION, key(), changes={Attribute[k]: v for k, v in changes.items()}))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flipped_bit_is_proven_and_none_is_an_exception(data):
    blob = bytearray(gzip.decompress(device.hsm().attest(VERSION, key())))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not report(attestation(gzip.compress(bytes(blob), 1))).proven


def changed_certificate(offset, bit):
    """The partition's certificate, PEM, with a bit of its DER flipped."""
    der = bytearray(load_roots(device.hsm().manufacturer_chain[0].encode())[0].public_bytes(Encoding.DER))
    der[offset % len(der)] ^= 1 << bit
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(bytes(der)).decode()}-----END CERTIFICATE-----\n"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 7))
@example(12, 0)  # the version: an error of a class of its own
def test_no_changed_certificate_is_proven_and_none_is_an_exception(offset, bit):
    hsm = device.hsm()
    changed = changed_certificate(offset, bit)
    answer = report(attestation(manufacturer_chain=(changed, hsm.manufacturer_chain[1])))
    if answer.proven:
        # One byte counts the unused bits of the signature's BIT STRING; a parser may overlook it.
        [before], [after] = load_roots(hsm.manufacturer_chain[0].encode()), load_roots(changed.encode())
        assert (before.tbs_certificate_bytes, before.signature) == (after.tbs_certificate_bytes, after.signature)
    else:
        assert outcome(answer, MANUFACTURER) is Outcome.FAILED


def test_a_root_of_no_known_version_is_no_certificate():
    with pytest.raises(ValueError):
        load_roots(changed_certificate(12, 0).encode())


class TestStatement:
    def test_another_public_key_is_a_contradiction(self):
        answer = report(attestation(), public=other_key())
        assert outcome(answer, KEY) is Outcome.FAILED
        assert answer.contradicted

    def test_another_version_is_a_contradiction(self):
        answer = report(attestation(), name=VERSION[:-1] + "2")
        assert outcome(answer, NAME) is Outcome.FAILED

    def test_without_a_modulus_the_hash_of_the_public_key_binds(self):
        assert outcome(report(attested(MODULUS=None)), KEY) is Outcome.PASSED
        assert outcome(report(attested(MODULUS=None, EKCV=bytes(32))), KEY) is Outcome.FAILED

    def test_without_both_the_key_is_not_bound(self):
        answer = report(attested(MODULUS=None, EKCV=None))
        assert outcome(answer, KEY) is Outcome.NOT_DONE
        assert not answer.proven

    def test_another_exponent_is_another_key(self):
        assert outcome(report(attested(PUBLIC_EXPONENT=b"\3")), KEY) is Outcome.FAILED

    def test_an_identifier_of_another_form_is_not_read(self):
        answer = report(attested(ID=b"short"))
        assert outcome(answer, NAME) is Outcome.NOT_DONE
        assert not answer.proven

    @pytest.mark.parametrize("name", ["SENSITIVE", "EXTRACTABLE", "NEVER_EXTRACTABLE", "LOCAL"])
    @pytest.mark.parametrize("value", [None, b"\2", b"", b"\0\1"])
    def test_an_attribute_that_is_absent_or_unclear_proves_nothing(self, name, value):
        answer = report(attested(**{name: value}))
        assert outcome(answer, ATTRIBUTES) is Outcome.NOT_DONE
        assert name in sentence(answer, ATTRIBUTES)
        assert not answer.proven

    def test_it_must_be_an_rsa_key(self):
        assert outcome(report(attested(KEY_TYPE=b"\3")), ATTRIBUTES) is Outcome.FAILED

    def test_attributes_are_told_as_they_are(self):
        said = sentence(report(attested(EXTRACTABLE=b"\1")), ATTRIBUTES)
        assert "EXTRACTABLE true" in said
        assert "LOCAL true" in said


def signed_part():
    return gzip.decompress(device.hsm().attest(VERSION, key()))[:-256]


def repacked(part):
    return gzip.compress(bytes(part) + bytes(256))


def put(offset, form, *values):
    part = bytearray(signed_part())
    struct.pack_into(form, part, offset, *values)
    return repacked(part)


FIRST_KEY = 32 + 8  # response header and handles, then the info header


class TestLayout:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not gzip",
            gzip.compress(b""),
            gzip.compress(b"x" * 300),
            device.hsm().attest(VERSION, key())[:-1],
            device.hsm().attest(VERSION, key()) + b"x",
            gzip.compress(bytes(MAX_CONTENT_BYTES + 1)),
            repacked(signed_part()[:-1]),
            repacked(signed_part() + b"x"),
            put(0, ">I", 1),
            put(8, ">I", 0),
            put(12, ">I", 0xFFFFFFFF),
            put(12, ">I", 1 << 20),
            put(32, ">HHHH", 1, 3, 8, 0),
            put(32, ">HHHH", 1, 3, 0, 8),
            put(32, ">HHHH", 1, 3, 8, 9),
            put(32, ">HHHH", 1, 3, 8, 0xFFFF),
            put(FIRST_KEY + 4, ">I", 0),
            put(FIRST_KEY + 4, ">I", 0xFFFFFFFF),
            put(FIRST_KEY + 4, ">I", 3),
            put(FIRST_KEY + 8, ">I", 0xFFFFFFFF),
            put(FIRST_KEY + 12 + 4, ">I", 0xFFFFFFFF),
            put(FIRST_KEY + 12 + 8, ">B", 3),
            put(FIRST_KEY + 12 + 9, ">I", 0),
        ],
        ids=[
            "nothing", "not gzip", "empty", "junk", "cut gzip", "something after the gzip", "a bomb", "cut", "longer",
            "a response code", "another total", "a huge buffer", "a buffer before the start", "one key", "no first key",
            "overlapping keys", "a second key outside", "no attributes", "too many attributes", "too few attributes",
            "a key too long", "an attribute too long", "two private keys", "an attribute twice",
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_not_read(self, content):
        with pytest.raises(ValueError):
            parse(content)
        answer = report(attestation(content))
        assert answer.statement is None
        assert not answer.proven

    def test_every_truncation_is_refused(self):
        blob = gzip.decompress(device.hsm().attest(VERSION, key()))
        for length in range(0, len(blob), 7):
            with pytest.raises(ValueError):
                parse(gzip.compress(blob[:length]))

    def test_a_bomb_is_not_unpacked(self):
        with pytest.raises(ValueError, match="fit size"):
            unpack(gzip.compress(bytes(64 << 20)))

    def test_what_was_signed_and_what_was_said_come_out(self):
        statement = parse(device.hsm().attest(VERSION, key()))
        assert statement.private[Attribute.CLASS] == b"\3"
        assert statement.public[Attribute.CLASS] == b"\2"
        assert statement.flag(Attribute.ALWAYS_SENSITIVE) is True
        assert len(statement.signature) == 256

    @pytest.mark.parametrize(
        ("made", "said"),
        [
            (None, "no attestation came"),
            (attestation(b""), "no attestation came"),
            (attestation(format="CAVIUM_V1_COMPRESSED"), "CAVIUM_V1_COMPRESSED, which is not read"),
            (attestation(format="7"), "format 7"),
        ],
        ids=["none", "empty", "version 1", "unknown"],
    )
    def test_what_is_not_read_says_so(self, made, said):
        answer = report(made)
        assert said in answer.checks[0].sentence
        assert answer.checks[0].outcome is Outcome.NOT_DONE
        assert not answer.proven
        assert not answer.contradicted


@pytest.mark.parametrize("text", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_roots_must_be_certificates(text):
    with pytest.raises(ValueError):
        load_roots(text)
