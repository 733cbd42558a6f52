"""An HSM that attests keys as Google's do: Marvell's layout, two certificate chains, real signatures."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha1, sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

CLASS, KEY_TYPE, ID, SENSITIVE, MODULUS, EXPONENT = 0x0000, 0x0100, 0x0102, 0x0103, 0x0120, 0x0122
EXTRACTABLE, LOCAL, NEVER_EXTRACTABLE, ALWAYS_SENSITIVE, KCV, EKCV = 0x0162, 0x0163, 0x0164, 0x0165, 0x0173, 0x1003


@cache
def rsa_key(bits: int, index: int) -> rsa.RSAPrivateKey:
    """A key of the tests' own, made once a process."""
    return rsa.generate_private_key(65537, bits)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def certificate(
    subject: str,
    subject_key: rsa.RSAPrivateKey,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    days: int = 365,
    began: datetime | None = None,
) -> x509.Certificate:
    """Without extensions, as an HSM's own certificates are."""
    start = began or datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(
        issuer_name=_name(issuer),
        subject_name=_name(subject),
        public_key=subject_key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=start + timedelta(days=days),
    )
    return builder.sign(issuer_key, SHA256())


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True)
class Hsm:
    """One partition of one card, certified by its manufacturer and by its owner."""

    partition_key: rsa.RSAPrivateKey
    manufacturer_root: x509.Certificate
    owner_root: x509.Certificate
    manufacturer_chain: tuple[str, ...]
    owner_card_chain: tuple[str, ...]
    owner_partition_chain: tuple[str, ...]

    @property
    def roots_pem(self) -> str:
        """Both roots, as an operator would put them in a file."""
        return _pem(self.manufacturer_root) + _pem(self.owner_root)

    def attest(self, name: str, key: rsa.RSAPublicKey, changes: Mapping[int, bytes | None] | None = None) -> bytes:
        """The attestation of a key pair, gzip; `changes` replaces the private key's attributes (None drops one)."""
        private = {**_private(name, key), **(changes or {})}
        public = {**_private(name, key), CLASS: b"\2", SENSITIVE: b"\0", EXTRACTABLE: b"\1", NEVER_EXTRACTABLE: b"\0"}
        return gzip.compress(self.sign(layout(public, {k: v for k, v in private.items() if v is not None})))

    def sign(self, signed: bytes) -> bytes:
        """Append the partition's signature."""
        return signed + self.partition_key.sign(signed, PKCS1v15(), SHA256())


def _private(name: str, key: rsa.RSAPublicKey) -> dict[int, bytes]:
    numbers = key.public_numbers()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        CLASS: b"\3",
        KEY_TYPE: b"\0",
        SENSITIVE: b"\1",
        EXTRACTABLE: b"\0",
        LOCAL: b"\1",
        NEVER_EXTRACTABLE: b"\1",
        ALWAYS_SENSITIVE: b"\1",
        ID: (sha256(b"key ring").hexdigest() + sha256(name.encode()).hexdigest()).encode(),
        MODULUS: numbers.n.to_bytes(key.key_size // 8, "big"),
        EXPONENT: numbers.e.to_bytes(3, "big"),
        KCV: sha1(spki).digest()[:3],
        EKCV: sha256(spki).digest(),
    }


def _object(handle: int, attributes: Mapping[int, bytes]) -> bytes:
    body = b"".join(struct.pack(">II", kind, len(value)) + value for kind, value in attributes.items())
    return struct.pack(">III", handle, len(attributes), len(body)) + body


def layout(first: Mapping[int, bytes], second: Mapping[int, bytes]) -> bytes:
    """What is signed: response header, handles, info header, two keys."""
    one, two = _object(0x1173, first), _object(0x2153, second)
    buffer = struct.pack(">HHHH", 1, 3, 8, 8 + len(one)) + one + two
    handles = struct.pack(">QQ", 0x2153, 0x1173)
    total = 16 + len(handles) + len(buffer) + 256
    return struct.pack(">IIII", 0, 3, total, len(buffer)) + handles + buffer


@cache
def hsm() -> Hsm:
    """The HSM of the fake, made once a process."""
    maker, owner, card, partition = (rsa_key(2048, index) for index in range(100, 104))
    return Hsm(
        partition_key=partition,
        manufacturer_root=certificate("maker root", maker, "maker root", maker),
        owner_root=certificate("owner root", owner, "owner root", owner),
        manufacturer_chain=(
            _pem(certificate("card:partition", partition, "card", card)),
            _pem(certificate("card", card, "maker root", maker)),
        ),
        owner_card_chain=(_pem(certificate("card", card, "owner root", owner)),),
        owner_partition_chain=(_pem(certificate("card:partition", partition, "owner root", owner)),),
    )
