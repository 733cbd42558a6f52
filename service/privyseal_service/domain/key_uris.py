"""Key URIs, as far as the service reads them: paths are made absolute, and keys of one store are told from others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from pydantic import JsonValue

_TOKEN_ATTRIBUTES = frozenset(
    {"token", "serial", "manufacturer", "model", "slot-id", "slot-description", "slot-manufacturer", "module-path"}
)
"""What in a PKCS#11 URI says which token is meant (RFC 7512, 2.3)."""

_PATHS: Mapping[str, Mapping[str, str]] = {
    "pkcs11": {"module-path": "", "pin-source": "file:"},
    "gcpkms": {"credentials": "file:"},
}
"""By URI scheme, the query attributes that are paths, each with what stands before the path."""

_SETTINGS = {"gcpkms": frozenset({"credentials_file", "attestation_roots"})}
"""By URI scheme, the settings of a store that are paths."""

# What RFC 7512 (section 2.3) lets stand in a query attribute as it is, and needs no escape for our purpose.
_PLAIN = "/:@!$'()*+,=[]?"


def resolve_paths(uri: str, folder: Path) -> str:
    """A key's URI, with paths that are relative to `folder` made absolute: `module-path` and `pin-source=file:PATH` of
    `pkcs11:`, `credentials=file:PATH` of `gcpkms:`. Any other URI is returned as it is."""
    start, question_mark, query = uri.partition("?")
    paths = _PATHS.get(start.partition(":")[0].lower())
    if paths is None or not question_mark:
        return uri
    return f"{start}?{'&'.join(_resolve(attribute, paths, folder) for attribute in query.split('&'))}"


def resolve_settings(scheme: str, settings: Mapping[str, JsonValue], folder: Path) -> dict[str, JsonValue]:
    """The settings of a key store, `[stores.SCHEME]`, with the relative paths among them made absolute."""
    paths = _SETTINGS.get(scheme, frozenset())
    return {
        name: str(folder / value) if name in paths and isinstance(value, str) and value else value
        for name, value in settings.items()
    }


def _resolve(attribute: str, paths: Mapping[str, str], folder: Path) -> str:
    """The attribute with an absolute path. The rest of it stays as it was written, for the backend to judge."""
    name, equals, value = attribute.partition("=")
    if name not in paths or not equals:
        return attribute
    kind = paths[name]
    path = value.removeprefix(kind)
    if not path or unquote(path).startswith("/") or not value.startswith(kind):
        return attribute
    return f"{name}={kind}{quote(str(folder), safe=_PLAIN)}/{path}"


def token_of(uri: str) -> Mapping[str, str]:
    """What a PKCS#11 URI says of its token, by attribute; empty for any other URI."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "pkcs11":
        return {}
    path, _, query = rest.partition("?")
    pairs = (attribute.partition("=") for attribute in (*path.split(";"), *query.split("&")))
    return {name: unquote(value) for name, _, value in pairs if name in _TOKEN_ATTRIBUTES}


def same_token(one: str, other: str) -> bool:
    """Whether two keys' URIs may name the same token: nothing that both say of it differs."""
    if one == other:
        return True
    first, second = token_of(one), token_of(other)
    return bool(first and second) and all(second.get(name, value) == value for name, value in first.items())


def store_of(uri: str) -> str:
    """A name for the store that a key's URI names: a PKCS#11 token, or all that is under another scheme."""
    said = ";".join(f"{name}={value}" for name, value in sorted(token_of(uri).items()))
    return f"{uri.partition(':')[0].lower()}:{said}"
