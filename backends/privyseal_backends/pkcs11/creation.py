"""Make a key inside a token, or move an existing one into it; nothing is ever replaced, and nothing half-made stays.

Templates name each attribute that matters, since tokens' defaults differ (CKA_SENSITIVE is often false by default).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from pkcs11.constants import DEFAULT, Attribute, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.mechanisms import KeyType

from privyseal_backends.interface import (
    BackendError,
    CallerError,
    IntegrityError,
    Mechanism,
    OperatorError,
    PublicKey,
    Purpose,
    SigningInput,
)
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.errors import Fault, backend_error, meaning
from privyseal_backends.pkcs11.objects import (
    MAPPER,
    find_objects,
    find_private_key,
    key_template,
    read_attributes,
    read_public_key,
)
from privyseal_backends.pkcs11.token_key import check_same, sign, try_decryption
from privyseal_backends.verification import verify

_Template: TypeAlias = dict[Attribute, Any]

_SIZES = {
    Purpose.TYPE1: (2048,),
    Purpose.SIGNATURES: (2048, 3072, 4096),
    Purpose.DECRYPTION: (2048, 3072, 4096),
}
_ID_BYTES = 20
_EXPONENT = 65537
_DISPENSABLE = frozenset({Attribute.UNWRAP, Attribute.SIGN_RECOVER})
_PUBLIC = frozenset({Attribute.VERIFY, Attribute.ENCRYPT, Attribute.WRAP})
"""What the public object may do: nothing here asks the token for any of it."""
_LEFT_TO_THE_TOKEN = dict.fromkeys((*_DISPENSABLE, Attribute.DERIVE), DEFAULT)
_PUBLIC_LEFT_TO_THE_TOKEN = dict.fromkeys(_PUBLIC, DEFAULT)
"""Take out of a template what python-pkcs11 would put there by itself."""
_PROOF = hashlib.sha256(b"Privyseal: this key was just put into its token").digest()
"""What a new key signs to prove itself: no bundle has this checksum."""

_PROOFS = {
    Purpose.TYPE1: (Mechanism.TYPE1,),
    Purpose.SIGNATURES: (Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256),
    Purpose.DECRYPTION: (Mechanism.OAEP_SHA256, Mechanism.OAEP_SHA1),
}


@dataclass(frozen=True)
class ImportedKey:
    """An RSA private key that is on its way into a token."""

    key: RSAPrivateKey

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self.key.public_key())


def check_size(purpose: Purpose, modulus_bits: int) -> None:
    """Raise `CallerError` unless a key for the purpose may have that size."""
    sizes = _SIZES[purpose]
    if modulus_bits not in sizes:
        raise CallerError(
            "object",
            f"a key for {purpose.value} cannot have {modulus_bits} bits",
            f"choose {' or '.join(map(str, sizes))}",
        )


def parse_private_key(der: bytes, purpose: Purpose) -> ImportedKey:
    """An RSAPrivateKey (RFC 8017, A.1.2) in DER, checked for consistency. Raises `CallerError`, without its bytes."""
    try:
        key = load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise CallerError(
            "object", "what is to be imported is not a sound RSA private key", "give an RSAPrivateKey in DER"
        )
    check_size(purpose, key.key_size)
    if key.public_key().public_numbers().e != _EXPONENT:
        raise CallerError("object", f"the key's public exponent is not {_EXPONENT}", "import another key")
    return ImportedKey(key)


def generate(token: pkcs11.Token, uri: KeyAddress, purpose: Purpose, modulus_bits: int) -> KeyAddress:
    """Generate a key pair and prove it. Returns the URI with the new key's CKA_ID. The token is logged in."""
    named = _named(uri)

    def make(session: pkcs11.Session) -> None:
        _with_what_the_token_takes(
            purpose,
            lambda private_template, public_template: session.generate_keypair(
                KeyType.RSA,
                modulus_bits,
                id=named.object_id,
                label=named.object_label,
                store=True,
                capabilities=MechanismFlag(0),
                mechanism=pkcs11.Mechanism.RSA_PKCS_KEY_PAIR_GEN,
                public_template={**_PUBLIC_LEFT_TO_THE_TOKEN, **public_template},
                private_template={**_LEFT_TO_THE_TOKEN, **private_template},
            ),
            lambda: remove(token, named),
        )
        _prove(session, named, purpose, None)

    _make(token, uri, named, make, "to generate a key")
    return named


def put(token: pkcs11.Token, uri: KeyAddress, purpose: Purpose, imported: ImportedKey) -> KeyAddress:
    """Create the key's two objects and prove it. Returns the URI with its CKA_ID. The token is logged in."""
    named = _named(uri)
    common = {Attribute.KEY_TYPE: KeyType.RSA, Attribute.ID: named.object_id, Attribute.LABEL: named.object_label}

    def make(session: pkcs11.Session) -> None:
        kind = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        _with_what_the_token_takes(
            purpose,
            lambda private_template, _: session.create_object(
                {**kind, **common, **private_template, **_numbers(imported)}
            ),
            lambda: remove(token, named),
        )
        public = {**_public_template(purpose), **_public_numbers(imported.public_key)}
        session.create_object({Attribute.CLASS: ObjectClass.PUBLIC_KEY, **common, **public})
        _prove(session, named, purpose, imported.public_key)

    _make(token, uri, named, make, "to take a key")
    return named


def remove(token: pkcs11.Token, named: KeyAddress) -> None:
    """Destroy the objects of a key that was just made. Raises `PKCS11Error`."""
    with _session(token) as session:
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            for made in find_objects(session, key_template(named, kind)):
                made.destroy()


def _make(
    token: pkcs11.Token, uri: KeyAddress, named: KeyAddress, make: Callable[[pkcs11.Session], None], doing: str
) -> None:
    """Make a key where nothing has its name. When that fails, remove whatever was made of it, on another session, since
    the one that failed may be of no use; and say so when that fails too."""
    with _session(token) as session:
        _check_free(session, uri, named)
    try:
        with _session(token) as session:
            make(session)
    except (PKCS11Error, BackendError) as error:
        failure = backend_error(error, doing) if isinstance(error, PKCS11Error) else error
        try:
            remove(token, named)
        except PKCS11Error as second:
            raise OperatorError(
                "object",
                f"{failure}; and the token answered {meaning(second).name} when asked to remove what was made",
                f"delete the {named.key_words} with the token's own tool",
            ) from None
        raise failure from None


@contextlib.contextmanager
def _session(token: pkcs11.Token) -> Iterator[pkcs11.Session]:
    """A read-write session that is closed again; the login is another session's."""
    session = token.open(rw=True, attribute_mapper=MAPPER)
    try:
        yield session
    finally:
        with contextlib.suppress(PKCS11Error):
            session.close()


def _named(uri: KeyAddress) -> KeyAddress:
    return replace(uri, object_id=uri.object_id or secrets.token_bytes(_ID_BYTES))


def _with_what_the_token_takes(
    purpose: Purpose, make: Callable[[_Template, _Template], object], undo: Callable[[], None]
) -> None:
    """Make the key with every attribute of both objects named or, on a token that does not take one of those that say
    nothing of custody, without these. Some tokens say no more of that than CKR_GENERAL_ERROR (tpm2-pkcs11 does, of
    CKA_VERIFY)."""
    private, public = _private_template(purpose), _public_template(purpose)
    try:
        make(private, public)
    except PKCS11Error as error:
        what = meaning(error)
        if what.part != "attribute" and what.fault is not Fault.DOUBTFUL:
            raise
        undo()
        make(_without(private, _DISPENSABLE), _without(public, _PUBLIC))


def _without(template: _Template, names: frozenset[Attribute]) -> _Template:
    return {name: value for name, value in template.items() if name not in names}


def _check_free(session: pkcs11.Session, uri: KeyAddress, named: KeyAddress) -> None:
    """Raise `OperatorError` when an object of that label, or of that CKA_ID, is on the token already."""
    for part in (replace(uri, object_id=None), replace(named, object_label=None)):
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            if find_objects(session, key_template(part, kind)):
                raise OperatorError(
                    "object",
                    f"the {uri.token_words} already has a {part.key_words}, and nothing is replaced",
                    "choose another object= in the URI, or delete the old one with the token's own tool",
                )


def _prove(session: pkcs11.Session, named: KeyAddress, purpose: Purpose, expected: PublicKey | None) -> None:
    """Find the new key as it will be found, check its attributes, and use it once."""
    handle = find_private_key(session, replace(named, object_id=None))  # another of that label is refused here
    attributes = read_attributes(handle)
    for name, value, wanted in (
        ("CKA_SENSITIVE", attributes.sensitive, True),
        ("CKA_EXTRACTABLE", attributes.extractable, False),
    ):
        if value is not wanted:
            raise OperatorError(
                "attribute", f"the token made the key with {name} other than {str(wanted).lower()}", "use another token"
            )
    public_key = read_public_key(session, handle, named)
    if expected is not None:
        check_same(public_key, expected.fingerprint, named)
    first, *others = _PROOFS[purpose]
    try:
        _use(handle, first, public_key)
    except PKCS11Error:
        if not others:
            raise
        _use(handle, others[0], public_key)


def _use(handle: pkcs11.PrivateKey, mechanism: Mechanism, public_key: PublicKey) -> None:
    if mechanism in (Mechanism.OAEP_SHA256, Mechanism.OAEP_SHA1):
        try_decryption(handle, mechanism, public_key)
        return
    proof = SigningInput(mechanism, _PROOF)
    try:
        verify(public_key, proof, sign(handle, proof, public_key.modulus_bytes))
    except IntegrityError:
        raise IntegrityError(
            "object", "the new key makes signatures that its public key does not verify", "use another token"
        ) from None


def _private_template(purpose: Purpose) -> dict[Attribute, Any]:
    decrypts = purpose is Purpose.DECRYPTION
    return {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: not decrypts,
        Attribute.DECRYPT: decrypts,
        Attribute.UNWRAP: False,
        Attribute.SIGN_RECOVER: False,
    }


def _public_template(purpose: Purpose) -> dict[Attribute, Any]:
    decrypts = purpose is Purpose.DECRYPTION
    return {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: False,
        Attribute.VERIFY: not decrypts,
        Attribute.ENCRYPT: decrypts,
        Attribute.WRAP: False,
    }


def _numbers(imported: ImportedKey) -> dict[Attribute, bytes]:
    numbers = imported.key.private_numbers()
    return {
        **_public_numbers(imported.public_key),
        Attribute.PRIVATE_EXPONENT: _bytes(numbers.d),
        Attribute.PRIME_1: _bytes(numbers.p),
        Attribute.PRIME_2: _bytes(numbers.q),
        Attribute.EXPONENT_1: _bytes(numbers.dmp1),
        Attribute.EXPONENT_2: _bytes(numbers.dmq1),
        Attribute.COEFFICIENT: _bytes(numbers.iqmp),
    }


def _public_numbers(public_key: PublicKey) -> dict[Attribute, bytes]:
    numbers = public_key.key.public_numbers()
    return {Attribute.MODULUS: _bytes(numbers.n), Attribute.PUBLIC_EXPONENT: _bytes(numbers.e)}


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
