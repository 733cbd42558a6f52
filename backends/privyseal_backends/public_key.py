"""An RSA public key, with the forms and names that its users need."""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key


class PublicKey:
    """An RSA public key, with the forms and names that its users want."""

    def __init__(self, key: RSAPublicKey) -> None:
        self.key = key

    @classmethod
    def from_spki_der(cls, der: bytes) -> PublicKey:
        """From SubjectPublicKeyInfo DER (RFC 5280). Raises ValueError when it is not an RSA key."""
        key = load_der_public_key(der)
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA public key")
        return cls(key)

    @cached_property
    def modulus_bits(self) -> int:
        """Bits of the modulus."""
        return self.key.key_size

    @cached_property
    def modulus_bytes(self) -> int:
        """Bytes of the modulus, of a signature and of a wrapped key."""
        return (self.key.key_size + 7) // 8

    @cached_property
    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def spki_pem(self) -> str:
        """SubjectPublicKeyInfo, PEM, ending in a newline."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @cached_property
    def pkcs1_pem(self) -> str:
        """RSAPublicKey (RFC 8017, A.1.1), PEM, ending in a newline."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()

    @cached_property
    def fingerprint(self) -> str:
        """Lower-case hex SHA-256 of the SPKI DER, 64 characters."""
        return sha256(self.spki_der).hexdigest()

    @cached_property
    def capgo_key_id(self) -> str:
        """The first 20 characters of the base64 body of the PKCS#1 PEM."""
        return "".join(self.pkcs1_pem.splitlines()[1:-1])[:20]

    def __repr__(self) -> str:
        return f"PublicKey(RSA-{self.modulus_bits}, {self.fingerprint})"
