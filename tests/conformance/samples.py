"""Something to ask for with each scheme, and what a right answer to it is: checked with the public key alone, by the
rules of the scheme and not by the code under test."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme

SCHEMES: tuple[Scheme, ...] = (*WrapScheme, *SignatureScheme)
UNWRAPPING = (WrapScheme.RSAES_OAEP_SHA256, WrapScheme.RSAES_OAEP_SHA1)


@dataclass(frozen=True)
class Sample:
    """What to ask for (a session key, a checksum, a wrapped key), and `check`, which fails on a wrong answer."""

    scheme: Scheme
    data: bytes = field(repr=False)
    check: Callable[[bytes], None] = field(repr=False)


def sample(scheme: Scheme, public_key: rsa.RSAPublicKey, size: int = 16) -> Sample:
    """Something that is never asked for twice; `size` is of the session key that was wrapped with RSAES."""
    if scheme in UNWRAPPING:
        session_key = os.urandom(size)
        return Sample(scheme, wrapped(scheme, public_key, session_key), lambda output: _equal(output, session_key))
    message = os.urandom(100)
    checksum = sha256(message).digest()
    match scheme:
        case WrapScheme.CAPGO:
            return _type1(scheme, public_key, checksum[:16], checksum[:16])
        case SignatureScheme.CAPGO_V2:
            return _type1(scheme, public_key, checksum, base64.b64decode(checksum.hex()))
        case SignatureScheme.CAPGO_V3:
            return _type1(scheme, public_key, checksum, checksum)
        case SignatureScheme.RSASSA_PKCS1_V1_5_SHA256:
            rule: padding.PKCS1v15 | padding.PSS = padding.PKCS1v15()
        case _:
            rule = padding.PSS(padding.MGF1(SHA256()), salt_length=32)
    return Sample(scheme, checksum, lambda output: public_key.verify(output, message, rule, SHA256()))


def wrapped(scheme: Scheme, public_key: rsa.RSAPublicKey, plain: bytes) -> bytes:
    """RSAES-OAEP as the scheme has it."""
    hash_type = SHA256 if scheme is WrapScheme.RSAES_OAEP_SHA256 else SHA1
    return public_key.encrypt(plain, padding.OAEP(padding.MGF1(hash_type()), hash_type(), None))


def _type1(scheme: Scheme, public_key: rsa.RSAPublicKey, data: bytes, signed: bytes) -> Sample:
    """The block is 00 01 FF … FF 00 and what is signed (RFC 8017, 9.2 step 5), taken out by the public operation."""

    def check(output: bytes) -> None:
        size = (public_key.key_size + 7) // 8
        _equal(len(output), size)
        numbers = public_key.public_numbers()
        block = pow(int.from_bytes(output, "big"), numbers.e, numbers.n).to_bytes(size, "big")
        _equal(block, b"\x00\x01" + b"\xff" * (size - len(signed) - 3) + b"\x00" + signed)

    return Sample(scheme, data, check)


def _equal(found: object, wanted: object) -> None:
    assert found == wanted
