"""One key on one token: how it is found, and its operations on one session."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pkcs11
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import CallerError, IntegrityError, Mechanism, PublicKey, SigningInput
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.errors import Fault, meaning
from privyseal_backends.pkcs11.mechanisms import TOKEN_MECHANISMS
from privyseal_backends.pkcs11.objects import KeyAttributes, find_private_key, read_attributes, read_public_key

_OAEP_HASHES: dict[Mechanism, type[HashAlgorithm]] = {Mechanism.OAEP_SHA256: SHA256, Mechanism.OAEP_SHA1: SHA1}
_TRIAL_BYTES = 16


@dataclass(frozen=True, eq=False)
class TokenKey:
    """A key that was found once: its URI, made exact by its CKA_ID, its public key, which it must always have, and its
    attributes, which its custody was found from."""

    uri: KeyAddress
    public_key: PublicKey
    attributes: KeyAttributes


def find_again(session: pkcs11.Session, key: TokenKey) -> pkcs11.PrivateKey:
    """The key's handle on a session. Raises `IntegrityError` when another key is found in its place, or the same one
    with attributes that contradict what was found before."""
    handle = find_private_key(session, key.uri)
    check_same(read_public_key(session, handle, key.uri), key.public_key.fingerprint, key.uri)
    changed = key.attributes.contradictions(read_attributes(handle))
    if changed:
        raise IntegrityError(
            "attribute",
            f"the {key.uri.key_words} of the {key.uri.token_words} has changed its {', '.join(changed)}",
            "find out who made it anew, then start the service again, which looks at its custody anew",
        )
    return handle


def check_same(found: PublicKey, fingerprint: str, uri: KeyAddress) -> None:
    """Raise `IntegrityError` unless the public key found is the one with the fingerprint."""
    if found.fingerprint != fingerprint:
        raise IntegrityError(
            "object",
            f"the {uri.token_words} has another key as {uri.key_words}: its fingerprint is {found.fingerprint}"
            f" and not {fingerprint}",
            "find out who replaced it, then correct the fingerprint or the URI",
        )


def sign(handle: pkcs11.PrivateKey, signing_input: SigningInput, size_bytes: int) -> bytes:
    """One C_SignInit and C_Sign. The result is not verified yet. Raises `PKCS11Error`."""
    how = TOKEN_MECHANISMS[signing_input.mechanism]
    signer: Any = handle
    value = signer.sign(
        how.prefix + signing_input.data,
        mechanism=how.mechanism,
        mechanism_param=how.parameter,
        buffer_size=size_bytes,
    )
    return bytes(value)


def decrypt(
    handle: pkcs11.PrivateKey,
    ciphertext: bytes,
    mechanism: Mechanism,
    public_key: PublicKey,
    fresh: Callable[[], pkcs11.PrivateKey],
) -> bytes:
    """One C_DecryptInit and C_Decrypt. Raises `PKCS11Error` where the token failed, and `CallerError`, always in the
    same words, where the ciphertext is at fault.

    Tokens answer a bad ciphertext with many values, CKR_GENERAL_ERROR among them; so after one that does not tell, the
    token has to decrypt a trial of our own before the ciphertext is blamed. `fresh` gives the handle for that, on
    another session: some tokens leave the operation that failed active in its own.
    """
    if len(ciphertext) != public_key.modulus_bytes:
        raise unfit_ciphertext()
    try:
        return _decrypt(handle, ciphertext, mechanism, public_key)
    except PKCS11Error as error:
        fault = meaning(error).fault
        if fault not in (Fault.CALLER, Fault.DOUBTFUL, Fault.BUSY):
            raise
    # Only what the token does with a ciphertext of our own says anything of the token.
    try_decryption(fresh(), mechanism, public_key)
    raise unfit_ciphertext()


def try_decryption(handle: pkcs11.PrivateKey, mechanism: Mechanism, public_key: PublicKey) -> None:
    """Let the token decrypt 16 random bytes that were encrypted here. Raises `PKCS11Error` where it does not, and
    `IntegrityError` where it answers something else."""
    hash_type = _OAEP_HASHES[mechanism]
    oaep = padding.OAEP(mgf=padding.MGF1(hash_type()), algorithm=hash_type(), label=None)
    plain = os.urandom(_TRIAL_BYTES)
    if _decrypt(handle, public_key.key.encrypt(plain, oaep), mechanism, public_key) != plain:
        raise IntegrityError(
            "mechanism",
            f"the token decrypts {mechanism.value} to something else than was encrypted",
            "check that the token's private and public objects belong together",
        )


def unfit_ciphertext() -> CallerError:
    """The one answer to every ciphertext that was not made for the key: more would tell an attacker what was wrong."""
    return CallerError("ciphertext", "it was not made for this key and scheme", "wrap it with the key's public key")


def _decrypt(handle: pkcs11.PrivateKey, ciphertext: bytes, mechanism: Mechanism, public_key: PublicKey) -> bytes:
    how = TOKEN_MECHANISMS[mechanism]
    value = cast("Any", handle).decrypt(
        ciphertext, mechanism=how.mechanism, mechanism_param=how.parameter, buffer_size=public_key.modulus_bytes
    )
    return bytes(value)
