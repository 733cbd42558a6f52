"""The settings `[stores.gcpkms]`, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from privyseal_backends.google_kms.address import GOOGLE, Endpoint, parse_endpoint
from privyseal_backends.interface import OperatorError


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
