"""What names a key in Google Cloud KMS: the `gcpkms:` URI, parsed without any I/O; unknown fields are refused."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from privyseal_backends.interface import CallerError
from privyseal_backends.uris import StoreUris

_FORM = "gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N"
_KEY = (
    r"projects/[a-z0-9][a-z0-9.:-]*/locations/[a-z0-9-]+"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}"
)
_KEY_ALONE = re.compile(_KEY)
_VERSION = re.compile(_KEY + r"/cryptoKeyVersions/[1-9][0-9]*")

DEFAULT_HOST = "cloudkms.googleapis.com"


@dataclass(frozen=True)
class Endpoint:
    """Where the API answers. `plaintext` is for loopback only, and then no credentials are sent."""

    host: str
    port: int
    plaintext: bool = False

    @property
    def target(self) -> str:
        """What gRPC dials."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


GOOGLE = Endpoint(DEFAULT_HOST, 443)


@dataclass(frozen=True)
class KeyAddress:
    """A key version's full resource name, and what its URI says beside it."""

    name: str
    endpoint: Endpoint | None = None
    credentials_file: str | None = None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoint(text: str) -> Endpoint:
    """`https://HOST[:PORT]` or `HOST[:PORT]`, over TLS; `http://HOST:PORT`, in plaintext, on loopback only.
    Raises ValueError with a sentence."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the endpoint's port is not a number from 1 to 65535") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError("an endpoint is written https://HOST[:PORT]")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("an endpoint has only a host and a port")
    plaintext = parts.scheme == "http"
    if plaintext and not _is_loopback(host):
        raise ValueError("an endpoint without TLS is accepted on loopback only")
    if plaintext and port is None:
        raise ValueError("an endpoint without TLS names its port")
    return Endpoint(host, port or 443, plaintext)


def _query(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise CallerError("URI", f"the query field {name!r} has no value", f"write {name}=VALUE")
        if name in fields:
            raise CallerError("URI", f"the query field {name!r} is there twice", "keep one")
        fields[name] = unquote(value)
    return fields


def _check_name(name: str) -> None:
    if _VERSION.fullmatch(name):
        return
    if _KEY_ALONE.fullmatch(name.rstrip("/")):
        raise CallerError(
            "URI",
            "the URI names a key without a version, and another version is another key",
            "end it in /cryptoKeyVersions/N with the version's number",
        )
    raise CallerError("URI", "the URI is not the full resource name of a key version", f"write {_FORM}")


def parse_uri(uri: str) -> KeyAddress:
    """Read a key's URI. Raises `CallerError` when it is not of the form above, or has an unknown query field.

    Query fields, each once: `endpoint` (see `parse_endpoint`) and `credentials=file:PATH`, the path from the root on.
    They go before the settings.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "gcpkms":
        raise CallerError("URI", "the URI does not begin with gcpkms://", f"write {_FORM}")
    name, _, query = rest.partition("?")
    _check_name(name)
    fields = _query(query)
    endpoint: Endpoint | None = None
    if "endpoint" in fields:
        try:
            endpoint = parse_endpoint(fields.pop("endpoint"))
        except ValueError as error:
            raise CallerError("URI", str(error), "correct the endpoint") from None
    credentials_file: str | None = None
    if "credentials" in fields:
        kind, _, credentials_file = fields.pop("credentials").partition(":")
        if kind != "file" or not credentials_file:
            raise CallerError("URI", "the credentials are not named by a file", "write credentials=file:PATH")
        if not PurePath(credentials_file).is_absolute():
            raise CallerError("URI", "the credentials file's path is relative", "write it from the root on")
    if fields:
        unknown = min(fields)
        raise CallerError("URI", f"the query field {unknown!r} is unknown", "use only endpoint and credentials")
    return KeyAddress(name, endpoint, credentials_file)


URIS = StoreUris(
    path_attributes={"credentials": "file:"}, path_settings=frozenset({"credentials_file", "attestation_roots"})
)
