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
    """The attribute with an absolute path. The rest of it stays as it was written, for the backend to judge."""
    name, equals, value = attribute.partition("=")
    if name not in {"module-path", "pin-source"} or not equals:
        return attribute
    kind, path = ("file:", value.removeprefix("file:")) if name == "pin-source" else ("", value)
    if not path or unquote(path).startswith("/") or not value.startswith(kind):
        return attribute
    return f"{name}={kind}{quote(str(folder), safe=_PLAIN)}/{path}"
