"""Read a token's PIN from where its URI says that it is kept, and keep it out of every text."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from urllib.parse import urlsplit

from privyseal_backends.interface import CallerError, OperatorError

_MAXIMUM_LENGTH = 1024


class Pin:
    """A PIN; its text shows in no repr, no format and no error."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The PIN itself, only for `C_Login`."""
        return self._text

    def same_as(self, other: Pin) -> bool:
        """Whether both are the same PIN."""
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __repr__(self) -> str:
        return "Pin(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a PIN is not pickled")


def read_pin(source: str) -> Pin:
    """The PIN from `file:PATH`, `env:NAME` or `credential:NAME` (a file in systemd's $CREDENTIALS_DIRECTORY).

    One newline at the end of a file is not part of the PIN. Raises `CallerError` for another form of source and
    `OperatorError` where it cannot be read, is empty, or cannot be a PIN.
    """
    kind, colon, name = source.partition(":")
    if not colon or not name or kind not in ("file", "env", "credential"):
        raise CallerError(
            "URI", "the pin-source is none of file:PATH, env:NAME, credential:NAME", "write one of these three"
        )
    if kind == "env":
        text = os.environ.get(name)
        if text is None:
            raise OperatorError("PIN", f"the environment variable {name} is not set", "set it to the token's user PIN")
        return _checked(text, f"the environment variable {name}")
    path = _file_path(name) if kind == "file" else _credential_path(name)
    return _checked(_read(path), f"the PIN file {path}")


def _file_path(name: str) -> Path:
    if not name.startswith("//"):
        return Path(name)
    parts = urlsplit(f"file:{name}")
    if parts.netloc not in ("", "localhost"):
        raise CallerError("URI", "the pin-source names a file of another host", "write pin-source=file:/path")
    return Path(parts.path)


def _credential_path(name: str) -> Path:
    if "/" in name or name in (".", ".."):
        raise CallerError("URI", "the credential in pin-source is not a plain name", "write pin-source=credential:NAME")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise OperatorError(
            "PIN",
            f"the credential {name} was not passed to the service",
            "add LoadCredential= or LoadCredentialEncrypted= to its systemd unit",
        )
    return Path(folder) / name


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAXIMUM_LENGTH + 3)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OperatorError(
            "PIN", f"cannot read the PIN file {path}: {reason}", "create it, readable only by the service"
        ) from None
    # Undecodable bytes become surrogates and are refused below: a UnicodeDecodeError would carry the PIN.
    return content.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")


def _checked(text: str, place: str) -> Pin:
    if not text:
        raise OperatorError("PIN", f"{place} is empty", "write the token's user PIN into it")
    unfit = len(text) > _MAXIMUM_LENGTH or any(c in "\n\0" or "\ud800" <= c <= "\udfff" for c in text)
    if unfit:
        raise OperatorError(
            "PIN", f"{place} does not hold a PIN in UTF-8", "write the PIN into it, on one line, nothing else"
        )
    return Pin(text)
