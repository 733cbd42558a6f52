"""Check an HSM's attestation of a key, offline, against root certificates that an operator supplies.

Sources: Google's "Verifying attestations" (kms/docs/attest-key) and its script verify_attestation_chains.py for the
container, the signature and the two chains; Marvell's "Software key attestation" for the response's layout and the
attributes' numbers. Google's HSMs are Marvell's (once Cavium's).

The content is gzip. Inside, the last 256 bytes are an RSASSA-PKCS1-v1_5 signature with SHA-256 over all before them,
made by the HSM partition's key. Two parties certify that key: the manufacturer (root, card, partition) and Google (a
root that certifies the card and the partition, each for itself). Both must name the same card key and the same
partition key: the first chain says that it is hardware, the second that it is Google's.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.google_kms.attestation_chain import (
    Chain,
    ChainError,
    check_owner,
    manufacturer_chain,
    read_certificates,
    reading,
    rsa_key,
)
from privyseal_backends.google_kms.facts import Attestation, KeyFacts
from privyseal_backends.interface import PublicKey

MAX_CONTENT_BYTES = 1 << 20
"""A real attestation of a key pair unpacks to some 2 KiB; more than this is not unpacked."""

SIGNATURE_BYTES = 256
_RESPONSE_HEADER = struct.Struct(">IIII")  # response code, flags, bytes in all, bytes of the buffer with the keys
_INFO_HEADER = struct.Struct(">HHHH")  # version, flags, offset of the first key, offset of the second
_OBJECT_HEADER = struct.Struct(">III")  # handle, number of attributes, their bytes
_ATTRIBUTE_HEADER = struct.Struct(">II")  # attribute, its bytes
_MAX_ATTRIBUTES = 256
_PRIVATE, _RSA = 3, 0  # CKO_PRIVATE_KEY, CKK_RSA


class Attribute(enum.IntEnum):
    """The attributes that a check reads (Marvell's OBJ_ATTR_*; the numbers of PKCS#11 where it has them)."""

    CLASS = 0x0000
    KEY_TYPE = 0x0100
    ID = 0x0102
    SENSITIVE = 0x0103
    MODULUS = 0x0120
    PUBLIC_EXPONENT = 0x0122
    EXTRACTABLE = 0x0162
    LOCAL = 0x0163
    NEVER_EXTRACTABLE = 0x0164
    ALWAYS_SENSITIVE = 0x0165
    EKCV = 0x1003


class Outcome(enum.Enum):
    """What became of one check."""

    PASSED = "checked"
    FAILED = "failed"
    NOT_DONE = "not checked"


@dataclass(frozen=True)
class Check:
    """One check: what it is about, what became of it, and a sentence."""

    about: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Statement:
    """What an attestation says: the attributes of both halves of the key pair, the signed bytes, the signature."""

    private: Mapping[int, bytes]
    public: Mapping[int, bytes]
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def flag(self, attribute: Attribute) -> bool | None:
        """A true-or-false attribute of the private key; None when it is absent or of another form."""
        return {b"\0": False, b"\1": True}.get(self.private.get(attribute, b""))


@dataclass(frozen=True)
class Report:
    """All checks of one attestation. `statement` is None when none could be read."""

    checks: tuple[Check, ...]
    statement: Statement | None = None

    @property
    def proven(self) -> bool:
        """Both chains, the signature, the key, its name and its attributes held: nothing rests on Google's word."""
        passed = {check.about for check in self.checks if check.outcome is Outcome.PASSED}
        return passed >= _PROOF and not self.contradicted

    @property
    def contradicted(self) -> bool:
        """Some check failed: the attestation does not belong to this key, or does not hold."""
        return any(check.outcome is Outcome.FAILED for check in self.checks)


MANUFACTURER = "manufacturer's chain"
OWNER = "owner's chain"
SIGNATURE = "attestation's signature"
KEY = "attested public key"
NAME = "attested key version"
ATTRIBUTES = "attested attributes"
_PROOF = frozenset({MANUFACTURER, OWNER, SIGNATURE, KEY, NAME, ATTRIBUTES})
_NEVER_DONE = Check(
    "revocation",
    Outcome.NOT_DONE,
    "whether a certificate was revoked, and the HSM's firmware and FIPS mode: nothing offline tells",
)


def _attributes(signed: bytes, start: int) -> tuple[Mapping[int, bytes], int]:
    _, count, size = _OBJECT_HEADER.unpack_from(signed, start)
    position = start + _OBJECT_HEADER.size
    end = position + size
    if not 0 < count <= _MAX_ATTRIBUTES or end > len(signed):
        raise ValueError("a key runs past the end")
    attributes: dict[int, bytes] = {}
    for _ in range(count):
        kind, length = _ATTRIBUTE_HEADER.unpack_from(signed, position)
        position += _ATTRIBUTE_HEADER.size
        if position + length > end or kind in attributes:
            raise ValueError("an attribute runs past its key, or is there twice")
        attributes[kind] = signed[position : position + length]
        position += length
    if position != end:
        raise ValueError("a key has bytes that are no attribute")
    return MappingProxyType(attributes), end


def unpack(content: bytes) -> bytes:
    """Gunzip, to at most `MAX_CONTENT_BYTES`. Raises ValueError."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        blob = decompressor.decompress(content, MAX_CONTENT_BYTES)
    except zlib.error:
        raise ValueError("it is not gzip") from None
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("it is not one whole gzip of a fit size")
    return blob


def parse(content: bytes) -> Statement:
    """Read an attestation of a key pair (CAVIUM_V2_COMPRESSED), strictly. Raises ValueError with a clause."""
    blob = unpack(content)
    try:
        code, _, total, buffer = _RESPONSE_HEADER.unpack_from(blob)
        start = total - buffer - SIGNATURE_BYTES
        if code != 0 or total != len(blob) or start < _RESPONSE_HEADER.size:
            raise ValueError("its header does not fit its length")
        signed, signature = blob[:-SIGNATURE_BYTES], blob[-SIGNATURE_BYTES:]
        _, _, first, second = _INFO_HEADER.unpack_from(signed, start)
        if first < _INFO_HEADER.size or second <= first:
            raise ValueError("it does not hold a key pair")
        one, first_end = _attributes(signed, start + first)
        two, second_end = _attributes(signed, start + second)
    except struct.error:
        raise ValueError("it ends too early") from None
    if first_end > start + second or second_end != len(signed):
        raise ValueError("its keys overlap, or are not all of it")
    private = [key for key in (one, two) if _number(key.get(Attribute.CLASS)) == _PRIVATE]
    if len(private) != 1:
        raise ValueError("it does not hold one private and one public key")
    public = two if private[0] is one else one
    return Statement(private[0], public, signed, signature)


def _number(value: bytes | None) -> int | None:
    return int.from_bytes(value, "big") if value else None


def _check_chains(
    attestation: Attestation, roots: tuple[x509.Certificate, ...], now: datetime
) -> tuple[list[Check], Chain | None]:
    if not roots:
        sentence = "no root certificates were configured (attestation_roots)"
        return [Check(about, Outcome.NOT_DONE, sentence) for about in (MANUFACTURER, OWNER)], None
    try:
        with reading():
            made = manufacturer_chain(attestation, roots, now)
            root = made.root.subject.rfc4514_string()
    except ChainError as error:
        return [
            Check(MANUFACTURER, Outcome.FAILED, f"the manufacturer's chain does not hold: {error}"),
            Check(OWNER, Outcome.NOT_DONE, "Google's chain, since the manufacturer's does not hold"),
        ], None
    checks = [Check(MANUFACTURER, Outcome.PASSED, f"the partition's and the card's certificates lead to {root!r}")]
    try:
        with reading():
            owner = check_owner(attestation, roots, now, made)
            root = owner.root.subject.rfc4514_string()
    except ChainError as error:
        return [*checks, Check(OWNER, Outcome.FAILED, f"Google's chain does not hold: {error}")], made
    return [*checks, Check(OWNER, Outcome.PASSED, f"{root!r} certifies the same card and partition")], made


def _check_signature(statement: Statement, attestation: Attestation, chain: Chain | None) -> Check:
    try:
        with reading():
            key = rsa_key(chain.partition if chain else read_certificates(attestation.manufacturer_chain)[0])
    except ChainError as error:
        return Check(SIGNATURE, Outcome.NOT_DONE, f"the attestation's signature: {error}")
    try:
        key.verify(statement.signature, statement.signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return Check(SIGNATURE, Outcome.FAILED, "the attestation's signature is not the partition's")
    if chain is None:
        sentence = "the attestation is signed by the certificate that came with it, whose own origin was not checked"
    else:
        sentence = "the attestation is signed by the HSM's partition"
    return Check(SIGNATURE, Outcome.PASSED, sentence)


def _is_of(key: Mapping[int, bytes], public_key: PublicKey) -> bool | None:
    """Whether an attested key belongs to `public_key`; None when it does not say. The modulus decides; without one, the
    EKCV, which is the SHA-256 of the SubjectPublicKeyInfo. The KCV has 24 bits, too few to decide anything."""
    numbers = public_key.key.public_numbers()
    if Attribute.MODULUS in key:
        exponent = _number(key.get(Attribute.PUBLIC_EXPONENT))
        return _number(key[Attribute.MODULUS]) == numbers.n and exponent in (None, numbers.e)
    if Attribute.EKCV in key:
        return key[Attribute.EKCV] == sha256(public_key.spki_der).digest()
    return None


def check_key(statement: Statement, public_key: PublicKey) -> Check:
    """Whether the attested key pair is the one of `public_key`."""
    answers = (_is_of(statement.private, public_key), _is_of(statement.public, public_key))
    if False in answers:
        return Check(KEY, Outcome.FAILED, "the attestation is of another key pair")
    if answers[0] is None:  # what the public half says does not bind the private one
        return Check(KEY, Outcome.NOT_DONE, "the attested private key does not say which public key it has")
    return Check(KEY, Outcome.PASSED, "the attested private key belongs to this public key")


def check_name(statement: Statement, name: str) -> Check:
    """OBJ_ATTR_ID is 128 hex characters; the last 64 are the SHA-256 of the key version's resource name."""
    identifier = statement.private.get(Attribute.ID, b"").lower()
    if len(identifier) != 128:
        return Check(NAME, Outcome.NOT_DONE, "the attested identifier has another form than the one known")
    if identifier[64:] != sha256(name.encode()).hexdigest().encode():
        return Check(NAME, Outcome.FAILED, "the attestation is of another key version")
    return Check(NAME, Outcome.PASSED, "the attestation names this key version")


def _check_attributes(statement: Statement) -> Check:
    if _number(statement.private.get(Attribute.KEY_TYPE)) != _RSA:
        return Check(ATTRIBUTES, Outcome.FAILED, "the attested private key is not an RSA key")
    wanted = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL)
    absent = [attribute.name for attribute in wanted if statement.flag(attribute) is None]
    if absent:
        return Check(ATTRIBUTES, Outcome.NOT_DONE, f"the attestation does not say {', '.join(absent)}")
    said = ", ".join(f"{attribute.name} {str(statement.flag(attribute)).lower()}" for attribute in wanted)
    return Check(ATTRIBUTES, Outcome.PASSED, f"the attested private key: {said}")


def _unread(sentence: str) -> Report:
    return Report((Check("attestation", Outcome.NOT_DONE, sentence),))


def check(facts: KeyFacts, public_key: PublicKey, roots: tuple[x509.Certificate, ...], now: datetime) -> Report:
    """Check the attestation of `facts`, as far as it and `roots` allow. Never raises: what could not be checked says so
    in the report. `now` (aware) is when certificates must be valid."""
    attestation = facts.attestation
    if attestation is None or not attestation.content:
        return _unread("no attestation came with the key version")
    if attestation.format != "CAVIUM_V2_COMPRESSED":
        return _unread(f"the attestation is in the format {attestation.format}, which is not read")
    try:
        statement = parse(attestation.content)
    except ValueError as error:
        return _unread(f"the attestation cannot be read: {error}")
    chains, made = _check_chains(attestation, roots, now)
    checks = (
        *chains,
        _check_signature(statement, attestation, made),
        check_key(statement, public_key),
        check_name(statement, facts.name),
        _check_attributes(statement),
        _NEVER_DONE,
    )
    return Report(checks, statement)
