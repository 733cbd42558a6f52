"""A signer with the key of a vector, for the agent."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privyseal import capgo
from privyseal.model import SignatureScheme

VECTORS = Path(__file__).parents[1] / "vectors"


class SoftwareSigner:
    """Signs with tests/vectors/NAME/private.pem, and keeps what it was asked for. `error` is raised instead; `xor`
    spoils each result."""

    def __init__(self, name: str = "capgo-v3") -> None:
        key = load_pem_private_key((VECTORS / name / "private.pem").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self.key = key
        self.public_key = key.public_key()
        self.asked: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.xor = 0

    def _type1(self, data: bytes) -> bytes:
        if self.error is not None:
            raise self.error
        block = self.key.sign(data, padding.PKCS1v15(), NoDigestInfo())
        return block[:-1] + bytes([block[-1] ^ self.xor])

    def wrap_session_key(self, session_key: bytes) -> bytes:
        self.asked.append(("wrap", session_key))
        return self._type1(session_key)

    def sign_checksum(self, scheme: SignatureScheme, checksum: bytes) -> bytes:
        self.asked.append((scheme.value, checksum))
        return self._type1(capgo.checksum_block(scheme, checksum))
