"""The format as pure functions: known answers, round trips, and everything that does not fit."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from privyseal import capgo
from privyseal.errors import InputError, NotVerifiedError
from privyseal.model import SignatureScheme
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3, flip

CAPGO_SCHEMES = [SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3]


@pytest.fixture
def public_key(vector):
    return capgo.load_public_key(vector.public_pem.read_bytes())


class TestKnownAnswers:
    def test_block_of_a_checksum(self, vector):
        assert capgo.checksum_block(vector.scheme, vector.hex("plain_sha256_hex")) == vector.hex(
            "rsa_input_checksum_hex"
        )

    def test_written_checksum(self, vector):
        assert capgo.format_checksum(vector.scheme, vector.hex("rsa_output_checksum_hex")) == vector.checksum

    def test_read_checksum(self, vector):
        assert capgo.parse_checksum(vector.checksum) == (vector.scheme, vector.hex("rsa_output_checksum_hex"))

    def test_written_iv_session_key(self, vector):
        parts = capgo.IvSessionKey(vector.hex("iv_hex"), vector.hex("rsa_output_session_key_hex"))
        assert capgo.format_iv_session_key(parts) == vector.iv_session_key
        assert capgo.parse_iv_session_key(vector.iv_session_key) == parts
        assert len(vector.iv_session_key) == 369

    def test_recovery(self, vector, public_key):
        session_key = capgo.recover_session_key(public_key, vector.hex("rsa_output_session_key_hex"))
        assert session_key == vector.hex("session_key_hex")
        checksum = capgo.recover_checksum(public_key, vector.scheme, vector.hex("rsa_output_checksum_hex"))
        assert checksum == vector.hex("plain_sha256_hex") == sha256(vector.bundle.read_bytes()).digest()

    def test_public_key_forms(self, vector, public_key):
        pem = vector.public_pem.read_text()
        assert capgo.pkcs1_pem(public_key) == pem
        assert capgo.key_id(public_key) == vector.facts["key_id"]
        again = capgo.load_public_key(capgo.spki_pem(public_key))
        assert capgo.pkcs1_pem(again) == pem
        assert (
            capgo.fingerprint(again)
            == sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        )


class TestRecovery:
    def test_other_key(self, vector):
        other = VECTOR_V2 if vector is VECTOR_V3 else VECTOR_V3
        key = capgo.load_public_key(other.public_pem.read_bytes())
        with pytest.raises(NotVerifiedError):
            capgo.recover_session_key(key, vector.hex("rsa_output_session_key_hex"))
        with pytest.raises(NotVerifiedError):
            capgo.recover_checksum(key, vector.scheme, vector.hex("rsa_output_checksum_hex"))

    def test_checksum_where_a_session_key_is_meant(self, vector, public_key):
        with pytest.raises(NotVerifiedError):
            capgo.recover_session_key(public_key, vector.hex("rsa_output_checksum_hex"))
        with pytest.raises(NotVerifiedError):
            capgo.recover_checksum(public_key, vector.scheme, vector.hex("rsa_output_session_key_hex"))

    def test_checksum_of_the_other_format(self, vector, public_key):
        other = next(scheme for scheme in CAPGO_SCHEMES if scheme is not vector.scheme)
        with pytest.raises(NotVerifiedError):
            capgo.recover_checksum(public_key, other, vector.hex("rsa_output_checksum_hex"))

    def test_v2_block_that_is_no_hex_text(self):
        key = rsa.generate_private_key(65537, 2048)
        block = key.sign(base64.b64decode("Z" * 64), PKCS1v15(), NoDigestInfo())
        with pytest.raises(NotVerifiedError):
            capgo.recover_checksum(key.public_key(), SignatureScheme.CAPGO_V2, block)

    @given(st.binary(max_size=300))
    def test_anything_else_is_nothing(self, block):
        key = capgo.load_public_key(VECTOR_V3.public_pem.read_bytes())
        assert capgo.recover(key, block) is None


class TestFields:
    @given(iv=st.binary(min_size=16, max_size=16), wrapped=st.binary(min_size=256, max_size=256))
    def test_iv_session_key_round_trip(self, iv, wrapped):
        parts = capgo.IvSessionKey(iv, wrapped)
        assert capgo.parse_iv_session_key(capgo.format_iv_session_key(parts)) == parts

    @given(scheme=st.sampled_from(CAPGO_SCHEMES), signature=st.binary(min_size=256, max_size=256))
    def test_checksum_round_trip(self, scheme, signature):
        text = capgo.format_checksum(scheme, signature)
        assert len(text) == {SignatureScheme.CAPGO_V3: 512, SignatureScheme.CAPGO_V2: 344}[scheme]
        assert capgo.parse_checksum(text) == (scheme, signature)

    @given(st.binary(min_size=32, max_size=32))
    def test_v2_block_says_the_hex_text(self, checksum):
        block = capgo.checksum_block(SignatureScheme.CAPGO_V2, checksum)
        assert len(block) == 48
        assert base64.b64encode(block).decode() == checksum.hex()

    @given(st.text(max_size=400))
    def test_no_text_breaks_the_readers(self, text):
        for read in (capgo.parse_iv_session_key, capgo.parse_checksum, capgo.parse_plain_checksum):
            with pytest.raises(InputError):
                read(text)

    @pytest.mark.parametrize("length", [0, 16, 31, 33, 48, 51])
    @pytest.mark.parametrize("scheme", CAPGO_SCHEMES)
    def test_checksum_of_another_length(self, scheme, length):
        with pytest.raises(ValueError, match="32 bytes"):
            capgo.checksum_block(scheme, bytes(length))

    @pytest.mark.parametrize("scheme", [SignatureScheme.RSASSA_PSS_SHA256, SignatureScheme.RSASSA_PKCS1_V1_5_SHA256])
    def test_schemes_that_are_not_capgos(self, scheme):
        with pytest.raises(ValueError, match="not a scheme of Capgo"):
            capgo.checksum_block(scheme, bytes(32))
        with pytest.raises(ValueError, match="not a scheme of Capgo"):
            capgo.format_checksum(scheme, bytes(256))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "two parts"),
            (VECTOR_V3.iv_session_key.replace(":", ""), "two parts"),
            (VECTOR_V3.iv_session_key + ":", "two parts"),
            (VECTOR_V3.iv_session_key[:-1], "second part of IV_SESSION_KEY is not base64"),
            (VECTOR_V3.iv_session_key[:-4], "holds 255 bytes, not 256"),
            (VECTOR_V3.iv_session_key[4:], "holds 13 bytes, not 16"),
            ("!" + VECTOR_V3.iv_session_key[1:], "first part of IV_SESSION_KEY is not base64"),
            # The same bytes written otherwise: the last character before the padding has bits that mean nothing.
            (VECTOR_V3.iv_session_key.replace("dw==:", "dx==:"), "first part of IV_SESSION_KEY is not base64"),
        ],
    )
    def test_malformed_iv_session_key(self, text, says):
        with pytest.raises(InputError, match=says):
            capgo.parse_iv_session_key(text)

    def test_plain_checksum_where_a_signed_one_is_meant(self):
        with pytest.raises(InputError, match="plain SHA-256"):
            capgo.parse_checksum(VECTOR_V3.facts["plain_sha256_hex"])

    @pytest.mark.parametrize("text", [VECTOR_V3.checksum[:-2], VECTOR_V2.checksum[:-4], VECTOR_V3.checksum + "00", "x"])
    def test_malformed_checksum(self, text):
        with pytest.raises(InputError, match="neither"):
            capgo.parse_checksum(text)

    def test_upper_case_hex_is_the_same_checksum(self):
        assert capgo.parse_checksum(VECTOR_V3.checksum.upper()) == capgo.parse_checksum(VECTOR_V3.checksum)
        assert capgo.parse_plain_checksum(f" {'AB' * 32}\n") == b"\xab" * 32

    def test_flipped_base64_is_still_base64(self):
        assert capgo.parse_iv_session_key(
            f"{flip(VECTOR_V3.iv_session_key.split(':')[0], 0)}:{VECTOR_V3.iv_session_key.split(':')[1]}"
        ) != capgo.parse_iv_session_key(VECTOR_V3.iv_session_key)


class TestPublicKeys:
    def test_private_key(self):
        with pytest.raises(InputError, match="private key") as caught:
            capgo.load_public_key(VECTOR_V3.private_pem)
        assert "MII" not in str(caught.value)

    @pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
    def test_no_key(self, data):
        with pytest.raises(InputError, match="not a public key in PEM"):
            capgo.load_public_key(data)

    def test_key_of_another_kind(self):
        pem = (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(InputError, match="not an RSA"):
            capgo.load_public_key(pem)

    def test_only_2048_bits(self):
        capgo.check_capgo_key(capgo.load_public_key(VECTOR_V3.public_pem.read_bytes()))
        with pytest.raises(InputError, match="RSA-3072"):
            capgo.check_capgo_key(rsa.generate_private_key(65537, 3072).public_key())
