"""The paths inside a key's URI: made absolute before a backend sees them, so that it need not know the folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

# What RFC 7512 (section 2.3) lets stand in a query attribute as it is, and needs no escape for our purpose.
_PLAIN = "/:@!$'()*+,=[]?"


def resolve_paths(uri: str, folder: Path) -> str:
    """A `pkcs11:` URI whose relative `module-path` and `pin-source=file:PATH` are relative to `folder`, made absolute.
    Any other URI is returned as it is."""
    start, question_mark, query = uri.partition("?")
    if not start.lower().startswith("pkcs11:") or not question_mark:
        return uri
    return f"{start}?{'&'.join(_resolve(attribute, folder) for attribute in query.split('&'))}"


def _resolve(attribute: str, folder: Path) -> str:
    name, equals, value = attribute.partition("=")
    if not equals:
        return attribute
    path = unquote(value)
    if name == "module-path":
        return f"{name}={quote(str(folder / path), safe=_PLAIN)}"
    if name == "pin-source" and path.startswith("file:") and not path.startswith("file:/"):
        return f"{name}=file:{quote(str(folder / path.removeprefix('file:')), safe=_PLAIN)}"
    return attribute
