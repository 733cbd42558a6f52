"""Known answers of the published Capgo CLI, with throw-away keys."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from privyseal.model import SignatureScheme

VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Vector:
    """What the published Capgo CLI made of a zip with a throw-away key."""

    folder: Path
    scheme: SignatureScheme
    facts: dict[str, str]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.zip"

    @property
    def encrypted(self) -> Path:
        return self.folder / "bundle.zip_encrypted.zip"

    @property
    def public_pem(self) -> Path:
        return self.folder / "public.pem"

    @property
    def private_pem(self) -> bytes:
        return (self.folder / "private.pem").read_bytes()

    @property
    def iv_session_key(self) -> str:
        return self.facts["ivSessionKey"]

    @property
    def checksum(self) -> str:
        return self.facts["checksum_field"]

    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self.facts[name])


def _vector(name: str) -> Vector:
    folder = VECTORS / name
    return Vector(folder, SignatureScheme(name), json.loads((folder / "vector.json").read_text()))


VECTOR_V2, VECTOR_V3 = _vector("capgo-v2"), _vector("capgo-v3")


def flip(text: str, index: int) -> str:
    """Base64 text with one bit of one byte of what it means changed."""
    data = bytearray(base64.b64decode(text))
    data[index] ^= 1
    return base64.b64encode(bytes(data)).decode()
