"""Find a private key on a token, read its attributes strictly, and read its public key."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import pkcs11
import pkcs11._pkcs11 as binding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from pkcs11.attributes import AttributeMapper
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import (
    AttributeSensitive,
    AttributeTypeInvalid,
    AttributeValueInvalid,
    FunctionFailed,
    PKCS11Error,
)
from pkcs11.mechanisms import KeyType

from privyseal_backends.interface import OperatorError, PublicKey
from privyseal_backends.pkcs11.address import KeyAddress

_BATCH = 10
_ULONG = struct.Struct("L")
_NOT_GIVEN = 2 ** (8 * _ULONG.size) - 1
"""CK_UNAVAILABLE_INFORMATION: a token's way to say that a number has no value."""


def _boolean(value: bytes) -> bool:
    if len(value) != 1:
        raise ValueError("not a CK_BBOOL")  # an empty CKA_EXTRACTABLE must not read as false
    return value != b"\0"


def _number(value: bytes) -> int:
    if len(value) != _ULONG.size:
        raise ValueError("not a CK_ULONG")
    return int(_ULONG.unpack(value)[0])


def _numbers(value: bytes) -> tuple[int, ...]:
    if len(value) % _ULONG.size:
        raise ValueError("not an array of CK_ULONG")
    return tuple(number for (number,) in _ULONG.iter_unpack(value))


def _pack_numbers(values: tuple[int, ...]) -> bytes:
    return b"".join(_ULONG.pack(value) for value in values)


_BOOLEANS = {
    "private": Attribute.PRIVATE,
    "sensitive": Attribute.SENSITIVE,
    "always_sensitive": Attribute.ALWAYS_SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
    "never_extractable": Attribute.NEVER_EXTRACTABLE,
    "local": Attribute.LOCAL,
    "wrap_with_trusted": Attribute.WRAP_WITH_TRUSTED,
    "modifiable": Attribute.MODIFIABLE,
    "sign": Attribute.SIGN,
    "sign_recover": Attribute.SIGN_RECOVER,
    "decrypt": Attribute.DECRYPT,
    "unwrap": Attribute.UNWRAP,
    "derive": Attribute.DERIVE,
    "always_authenticate": Attribute.ALWAYS_AUTHENTICATE,
}


def _strict_mapper() -> AttributeMapper:
    mapper = AttributeMapper()
    pack_boolean = mapper.attribute_types[Attribute.SIGN][0]
    for attribute in _BOOLEANS.values():
        mapper.register_handler(attribute, pack_boolean, _boolean)
    mapper.register_handler(Attribute.KEY_GEN_MECHANISM, _ULONG.pack, _number)
    mapper.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_numbers, _numbers)
    return mapper


MAPPER = _strict_mapper()
"""How every session here reads attributes: as python-pkcs11 does, but nothing into a value of wrong length."""


@dataclass(frozen=True)
class KeyAttributes:
    """What a token says of a private key; None where it says nothing. Names are those of PKCS#11 without `CKA_`."""

    object_id: bytes = b""
    private: bool | None = None
    sensitive: bool | None = None
    always_sensitive: bool | None = None
    extractable: bool | None = None
    never_extractable: bool | None = None
    local: bool | None = None
    wrap_with_trusted: bool | None = None
    modifiable: bool | None = None
    sign: bool | None = None
    sign_recover: bool | None = None
    decrypt: bool | None = None
    unwrap: bool | None = None
    derive: bool | None = None
    always_authenticate: bool | None = None
    key_gen_mechanism: int | None = None
    allowed_mechanisms: tuple[int, ...] | None = None

    def contradictions(self, other: KeyAttributes) -> list[str]:
        """The attributes of which both say something, and not the same. A token that is busy may not say all."""
        both = ((each.name, getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return [f"CKA_{name.upper()}" for name, mine, theirs in both if None not in (mine, theirs) and mine != theirs]


def read_attributes(key: pkcs11.Object) -> KeyAttributes:
    """Ask for each attribute by itself, since some tokens fail a whole list for one that they do not know."""
    read: dict[str, Any] = {name: _read(key, attribute) for name, attribute in _BOOLEANS.items()}
    generated = _read(key, Attribute.KEY_GEN_MECHANISM)
    return KeyAttributes(
        object_id=_read(key, Attribute.ID) or b"",
        key_gen_mechanism=None if generated == _NOT_GIVEN else generated,
        allowed_mechanisms=_read(key, Attribute.ALLOWED_MECHANISMS),
        **read,
    )


def _read(key: pkcs11.Object, attribute: Attribute) -> Any:
    """The value, or None where the token does not have one to give. Any other failure goes on to the caller."""
    try:
        return key[attribute]
    except (AttributeTypeInvalid, AttributeSensitive, AttributeValueInvalid, FunctionFailed, ValueError):
        return None


def key_template(uri: KeyAddress, kind: ObjectClass) -> Mapping[Attribute, Any]:
    """What an object that the URI names looks like."""
    template: dict[Attribute, Any] = {Attribute.CLASS: kind}
    if uri.object_label is not None:
        template[Attribute.LABEL] = uri.object_label
    if uri.object_id is not None:
        template[Attribute.ID] = uri.object_id
    return template


def find_objects(session: pkcs11.Session, template: Mapping[Attribute, Any]) -> list[pkcs11.Object]:
    """Every object like the template. Raises `PKCS11Error`.

    `Session.get_objects` would hold the session's lock, when the search cannot begin, for as long as anybody keeps the
    exception; so the search is ended here whatever happens.
    """
    search = cast("Any", binding).SearchIter(session, dict(template), _BATCH)
    try:
        search.__enter__()
        return [each for batch in search for each in batch]
    finally:
        with contextlib.suppress(PKCS11Error):
            search.__exit__(None, None, None)


def find_private_key(session: pkcs11.Session, uri: KeyAddress) -> pkcs11.PrivateKey:
    """The one RSA private key that the URI names. Raises `OperatorError` when there is none or more than one."""
    found = find_objects(session, key_template(uri, ObjectClass.PRIVATE_KEY))
    if not found:
        remedy = "correct the URI, or make the key with `privyseal-server key create`"
        if find_objects(session, key_template(uri, ObjectClass.PUBLIC_KEY)):
            remedy = "a public key of that name is there without its private key: make or restore the key"
        raise OperatorError("object", f"the {uri.token_words} has no private {uri.key_words}", remedy)
    if len(found) > 1:
        ids = ", ".join(sorted("".join(f"%{byte:02x}" for byte in _read(key, Attribute.ID) or b"") for key in found))
        raise OperatorError(
            "object",
            f"the {uri.token_words} has {len(found)} private keys that are a {uri.key_words}",
            f"add id= to the URI, one of {ids}",
        )
    (key,) = found
    if _read(key, Attribute.KEY_TYPE) is not KeyType.RSA or not isinstance(key, pkcs11.PrivateKey):
        raise OperatorError("object", f"the {uri.key_words} is not an RSA key", "make an RSA key of 2048 bits")
    return key


def read_public_key(session: pkcs11.Session, key: pkcs11.Object, uri: KeyAddress) -> PublicKey:
    """The public key of a private key: from its own attributes or, where those do not hold all of it, from the public
    object with the same CKA_ID. Raises `OperatorError` where neither tells.

    Neither has to be true: that the two belong together is shown by every signature, which is verified.
    """
    modulus, exponent = _read(key, Attribute.MODULUS), _read(key, Attribute.PUBLIC_EXPONENT)
    known = {(modulus, exponent)} if modulus and exponent else _beside(session, key, uri, modulus)
    if len(known) != 1:
        raise OperatorError(
            "attribute",
            f"the token shows {'no' if not known else 'more than one'} public key for the {uri.key_words}",
            "put its public key beside it under the same CKA_ID, and no other one",
        )
    ((n, e),) = known
    try:
        numbers = RSAPublicNumbers(e=int.from_bytes(e, "big"), n=int.from_bytes(n, "big"))
        return PublicKey(numbers.public_key())
    except ValueError as error:
        raise OperatorError("attribute", f"the {uri.key_words} is no usable RSA key: {error}", "make another") from None


def _beside(
    session: pkcs11.Session, key: pkcs11.Object, uri: KeyAddress, modulus: bytes | None
) -> set[tuple[bytes, bytes]]:
    """Modulus and exponent of the public objects beside a private key; those with its modulus, where it shows that."""
    template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.RSA}
    key_id = _read(key, Attribute.ID)
    if key_id:
        template[Attribute.ID] = key_id
    else:
        template[Attribute.LABEL] = uri.object_label
    shown = (
        (_read(each, Attribute.MODULUS), _read(each, Attribute.PUBLIC_EXPONENT))
        for each in find_objects(session, template)
    )
    return {(n, e) for n, e in shown if n and e and modulus in (None, n)}
