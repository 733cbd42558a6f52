"""Make or delete one key in a SoftHSM token, in a process of its own: `softhsm.py` sends the order as JSON on stdin."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pkcs11.attributes import AttributeMapper
from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.mechanisms import KeyType
from pkcs11.util.rsa import decode_rsa_private_key, decode_rsa_public_key

_ORDER = frozenset({"module", "serial", "pin", "label", "pem", "bits", "public", "id", "allowed", "delete"})


def main() -> None:
    order = json.load(sys.stdin)
    mapper = AttributeMapper()
    mapper.register_handler(
        Attribute.ALLOWED_MECHANISMS, lambda numbers: b"".join(struct.pack("L", n) for n in numbers), bytes
    )
    token = next(t for t in pkcs11.lib(order["module"]).get_tokens(token_serial=order["serial"].encode()))
    with token.open(rw=True, user_pin=order["pin"], attribute_mapper=mapper) as session:
        if order.get("delete"):
            for each in list(session.get_objects({Attribute.LABEL: order["label"]})):
                each.destroy()
        elif "pem" in order:
            _import(session, order)
        else:
            _generate(session, order)


def _private(order: dict[str, Any]) -> dict[Attribute, Any]:
    template: dict[Attribute, Any] = {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
        Attribute.DECRYPT: False,
        Attribute.UNWRAP: False,
    }
    template |= {Attribute[name.upper()]: value for name, value in order.items() if name not in _ORDER}
    if "allowed" in order:
        template[Attribute.ALLOWED_MECHANISMS] = [int(number) for number in order["allowed"].split(",")]
    return template


def _id(order: dict[str, Any]) -> bytes:
    """The CKA_ID: as ordered, or one that follows from the label."""
    return bytes.fromhex(order["id"]) if "id" in order else hashlib.sha256(order["label"].encode()).digest()[:8]


def _names(order: dict[str, Any]) -> dict[Attribute, Any]:
    return {Attribute.LABEL: order["label"], Attribute.ID: _id(order)}


def _import(session: pkcs11.Session, order: dict[str, Any]) -> None:
    key = load_pem_private_key(order["pem"].encode(), None)
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    session.create_object(decode_rsa_private_key(der) | _private(order) | _names(order))
    if order.get("public", True):
        public = decode_rsa_public_key(key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1))
        session.create_object(public | _names(order) | {Attribute.TOKEN: True, Attribute.PRIVATE: False})


def _generate(session: pkcs11.Session, order: dict[str, Any]) -> None:
    public, _ = session.generate_keypair(
        KeyType.RSA,
        order.get("bits", 2048),
        label=order["label"],
        id=_id(order),
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        private_template=_private(order),
    )
    if not order.get("public", True):
        public.destroy()


if __name__ == "__main__":
    main()
