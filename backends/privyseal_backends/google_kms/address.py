"""What names a key in Google Cloud KMS, and the backend's settings: pure parsing, unknown fields refused."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from privyseal_backends.interface import CallerError, OperatorError

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
    """Where the API answers. `plaintext` is for loopback alone, and then no credentials are sent."""

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


@dataclass(frozen=True)
class Settings:
    """`[stores.gcpkms]` of the service's configuration; `parse_settings` says what each means."""

    endpoint: Endpoint = GOOGLE
    credentials_file: str | None = None
    attestation_roots: str | None = None
    concurrency: int = 64
    attempt_timeout_s: float = 5.0
    open_timeout_s: float = 15.0
    quota_per_s: float | None = None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoint(text: str) -> Endpoint:
    """`https://HOST[:PORT]` or `HOST[:PORT]`, over TLS; `http://HOST:PORT`, in plaintext, on loopback alone.
    Raises ValueError with a sentence."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the endpoint's port is not a number from 1 to 65535") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError("an endpoint is written https://HOST[:PORT]")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("an endpoint has a host and a port alone")
    plaintext = parts.scheme == "http"
    if plaintext and not _is_loopback(host):
        raise ValueError("an endpoint without TLS is accepted on loopback alone")
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


def parse_key_uri(uri: str) -> KeyAddress:
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
        raise CallerError("URI", f"the query field {unknown!r} is unknown", "use endpoint and credentials alone")
    return KeyAddress(name, endpoint, credentials_file)


def _unfit(name: str, wanted: str) -> OperatorError:
    return OperatorError("settings", f"the setting {name!r} of gcpkms is unfit", f"write {wanted}")


def _text(settings: Mapping[str, object], name: str) -> str | None:
    value = settings.get(name)
    if value is None or (isinstance(value, str) and value):
        return value
    raise _unfit(name, "a text that is not empty")


def _path(settings: Mapping[str, object], name: str) -> str | None:
    value = _text(settings, name)
    if value is not None and not PurePath(value).is_absolute():
        raise _unfit(name, "a path from the root on")
    return value


def _seconds(settings: Mapping[str, object], name: str, default: float) -> float:
    value = settings.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= 300
        or not math.isfinite(value)
    ):
        raise _unfit(name, "seconds, above 0 and up to 300")
    return float(value)


def _concurrency(settings: Mapping[str, object]) -> int:
    value = settings.get("concurrency", Settings.concurrency)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise _unfit("concurrency", "a whole number from 1 to 1000")
    return value


def _quota(settings: Mapping[str, object]) -> float | None:
    value = settings.get("quota_per_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 1_000_000:
        raise _unfit("quota_per_s", "a number from 0.1 to 1000000")
    return float(value)


def parse_settings(settings: Mapping[str, object]) -> Settings:
    """Read the backend's settings. Raises `OperatorError` on an unknown or unfit one.

    `endpoint`: a private or regional endpoint (`parse_endpoint`); by default cloudkms.googleapis.com.
    `credentials_file`: JSON credentials, a path from the root on; by default Google's application default credentials.
    `attestation_roots`: a PEM file, by a path from the root on, with the HSM manufacturer's and Google's root
    certificates; when it is set, an HSM key is believed as far as its attestation proves, and no further.
    `concurrency`: calls in flight for each endpoint and credentials, 1 to 1000; by default 64.
    `attempt_timeout_s`: seconds until a single call is given up and tried again; by default 5.
    `open_timeout_s`: seconds that opening a key may take; by default 15.
    `quota_per_s`: the most signatures and decryptions a second that the service's processes ask for together with one
    endpoint and one set of credentials, an equal part each, 0.1 to 1,000,000; by default there is no limit.
    """
    names = set(Settings.__dataclass_fields__)
    for unknown in sorted(set(settings) - names):
        raise OperatorError("settings", f"gcpkms has no setting {unknown!r}", f"use {', '.join(sorted(names))}")
    endpoint = _text(settings, "endpoint")
    try:
        where = parse_endpoint(endpoint) if endpoint else GOOGLE
    except ValueError as error:
        raise OperatorError("settings", str(error), "correct the setting 'endpoint' of gcpkms") from None
    return Settings(
        endpoint=where,
        credentials_file=_path(settings, "credentials_file"),
        attestation_roots=_path(settings, "attestation_roots"),
        concurrency=_concurrency(settings),
        attempt_timeout_s=_seconds(settings, "attempt_timeout_s", Settings.attempt_timeout_s),
        open_timeout_s=_seconds(settings, "open_timeout_s", Settings.open_timeout_s),
        quota_per_s=_quota(settings),
    )
