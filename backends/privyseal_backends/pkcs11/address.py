"""Parse a key's PKCS#11 URI (RFC 7512): which module, which token, which object, and where its PIN is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from privyseal_backends.interface import CallerError
from privyseal_backends.uris import StoreUris

_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")
"""What may stand in an attribute of the path and of the query (RFC 7512, 2.3: pk11-pchar and pk11-qchar)."""

_TYPES = frozenset({"public", "private", "cert", "secret-key", "data"})
_VERSION = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?")
_TOKEN_FIELDS = (
    "token",
    "serial",
    "manufacturer",
    "model",
    "slot_id",
    "slot_description",
    "slot_manufacturer",
    "module_path",
    "module_name",
)
_LABEL_BYTES = 32
_MAXIMUM = 4096


@dataclass(frozen=True)
class KeyAddress:
    """A URI that names one private key. What it does not say is None; every value is compared exactly.

    `library_version` is (major, minor). Of `module_path` and `module_name` one at least is given. `pin_source` is
    `file:PATH`, `env:NAME` or `credential:NAME`, not yet read.
    """

    object_label: str | None = None
    object_id: bytes | None = None
    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    slot_id: int | None = None
    slot_description: str | None = None
    slot_manufacturer: str | None = None
    library_manufacturer: str | None = None
    library_description: str | None = None
    library_version: tuple[int, int] | None = None
    module_path: str | None = None
    module_name: str | None = None
    pin_source: str | None = None

    @property
    def token_words(self) -> str:
        """The token as a person would name it, for messages."""
        parts = (
            f"labelled {self.token!r}" if self.token is not None else "",
            f"with the serial {self.serial!r}" if self.serial is not None else "",
            f"in slot {self.slot_id}" if self.slot_id is not None else "",
            f"of the model {self.model!r}" if self.model is not None else "",
            f"made by {self.manufacturer!r}" if self.manufacturer is not None else "",
        )
        return " ".join(("token", *filter(None, parts)))

    @property
    def key_words(self) -> str:
        """The key as a person would name it, for messages."""
        parts = (
            f"labelled {self.object_label!r}" if self.object_label is not None else "",
            f"with the id {self.object_id.hex()}" if self.object_id is not None else "",
        )
        return " ".join(("key", *filter(None, parts)))

    def may_be_on_token_of(self, other: KeyAddress) -> bool:
        """Whether both may name the same token: nothing that both say of it differs."""
        said = ((getattr(self, name), getattr(other, name)) for name in _TOKEN_FIELDS)
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in said)


def parse_uri(uri: str) -> KeyAddress:
    """Parse a URI that names a private key. Raises `CallerError` where RFC 7512, 2.3 does not allow it, where an
    attribute comes twice or is not known, where it holds a PIN, and where it does not say which module or which key."""
    if len(uri) > _MAXIMUM:
        raise _bad(f"is longer than {_MAXIMUM} characters", "shorten it")
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() != "pkcs11":
        raise _bad("does not begin with pkcs11:", "write pkcs11:token=…;object=…?module-path=…&pin-source=…")
    path, _, query = rest.partition("?")
    fields = _attributes(path, ";", _PATH, _PATH_VALUE) | _attributes(query, "&", _QUERY, _QUERY_VALUE)
    if fields.pop("type", "private") != "private":
        raise _bad(
            "has a type other than private", "a signing key is a private key: write type=private or leave it out"
        )
    parsed = KeyAddress(**fields)
    if parsed.object_label is None and parsed.object_id is None:
        raise _bad("names no key", "add object=LABEL or id=%01%02…")
    if parsed.module_path is None and parsed.module_name is None:
        raise _bad("names no module", "add module-path=/path/to/module.so after the question mark")
    return parsed


def _attributes(
    text: str, separator: str, known: Mapping[str, tuple[str, Callable[[str, bytes], Any]]], allowed: re.Pattern[str]
) -> dict[str, Any]:
    """The attributes of one part of the URI, by the field of `KeyAddress` that each one fills."""
    fields: dict[str, Any] = {}
    for attribute in text.split(separator) if text else ():
        name, equals, value = attribute.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9\-_]+", name):
            raise _bad("has an attribute without a name", f"separate attributes by one {separator!r}")
        if name not in known:
            raise _unknown(name, separator)
        if not equals:
            raise _bad(f"has {name} without a value", f"write {name}=VALUE")
        field, convert = known[name]
        if field in fields:
            raise _bad(f"has {name} twice", "leave one of them out")
        if not allowed.fullmatch(value):
            raise _bad(f"has a character in {name} that may not stand there", "percent-encode it, a space as %20")
        fields[field] = convert(name, unquote_to_bytes(value))
    return fields


def _unknown(name: str, separator: str) -> CallerError:
    here, there = ("path", "query") if separator == ";" else ("query", "path")
    if name in (_QUERY if separator == ";" else _PATH):
        where = "after" if there == "query" else "before"
        return _bad(f"has {name} in its {here}", f"it belongs into the {there}, {where} the question mark")
    return _bad(f"has an attribute {name} that nothing here knows", "leave it out: it might have narrowed the choice")


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _bad(f"has a {name} that is not UTF-8", "percent-encode its UTF-8 bytes") from None
    if "\0" in text:
        raise _bad(f"has a zero byte in {name}", "leave it out")
    return text


def _name(name: str, value: bytes) -> str:
    if not value:
        raise _bad(f"has an empty {name}", f"write {name}=VALUE or leave it out")
    return _text(name, value)


def _label(name: str, value: bytes) -> str:
    if len(value) > _LABEL_BYTES:
        raise _bad(f"has a {name} longer than {_LABEL_BYTES} bytes", "no token has such a one")
    return _name(name, value)


def _bytes(name: str, value: bytes) -> bytes:
    if not value:
        raise _bad(f"has an empty {name}", f"write {name}=%01%02… or leave it out")
    return value


def _slot(name: str, value: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,20}", value):
        raise _bad(f"has a {name} that is not a decimal number", "write the number as the module's tools print it")
    return int(value)


def _library_version(name: str, value: bytes) -> tuple[int, int]:
    match = _VERSION.fullmatch(value.decode("ascii", "replace"))
    if match is None:
        raise _bad(f"has a {name} that is not a version", "write it as 2.6")
    return int(match[1]), int(match[2] or 0)


def _type(name: str, value: bytes) -> str:
    text = _text(name, value)
    if text not in _TYPES:
        raise _bad(f"has a {name} that RFC 7512 does not know", "write type=private or leave it out")
    return text


def _pin_value(name: str, value: bytes) -> None:  # noqa: ARG001 - the value is not to be looked at
    raise _bad(
        f"holds a PIN in {name}, where logs and process lists would show it",
        "put the PIN into a file and write pin-source=file:PATH (or env:NAME, or credential:NAME of systemd)",
    )


_PATH: Mapping[str, tuple[str, Callable[[str, bytes], Any]]] = {
    "token": ("token", _label),
    "serial": ("serial", _label),
    "manufacturer": ("manufacturer", _label),
    "model": ("model", _label),
    "object": ("object_label", _name),
    "id": ("object_id", _bytes),
    "type": ("type", _type),
    "slot-id": ("slot_id", _slot),
    "slot-description": ("slot_description", _name),
    "slot-manufacturer": ("slot_manufacturer", _label),
    "library-manufacturer": ("library_manufacturer", _label),
    "library-description": ("library_description", _label),
    "library-version": ("library_version", _library_version),
}
_QUERY: Mapping[str, tuple[str, Callable[[str, bytes], Any]]] = {
    "module-path": ("module_path", _name),
    "module-name": ("module_name", _name),
    "pin-source": ("pin_source", _name),
    "pin-value": ("pin_value", _pin_value),
}


def _bad(message: str, remedy: str) -> CallerError:
    return CallerError("URI", f"the PKCS#11 URI {message}", remedy)


@dataclass(frozen=True)
class Pkcs11Uris(StoreUris):
    """The `pkcs11:` URIs: a store is a token, as far as a URI names it."""

    path_attributes: Mapping[str, str] = field(default_factory=lambda: {"module-path": "", "pin-source": "file:"})

    def store_name(self, uri: str) -> str:
        """Return what the URI says of its token. A URI that cannot be parsed opens no key; it is its own store."""
        try:
            address = parse_uri(uri)
        except CallerError:
            return uri
        named = ((name, getattr(address, name)) for name in _TOKEN_FIELDS)
        return "pkcs11:" + ";".join(f"{name}={value}" for name, value in named if value is not None)

    def same_store(self, one: str, other: str) -> bool:
        """Return whether two URIs may name one token: nothing that both say of it differs."""
        try:
            return one == other or parse_uri(one).may_be_on_token_of(parse_uri(other))
        except CallerError:
            return False


URIS = Pkcs11Uris()
