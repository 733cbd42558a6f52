"""The `[limits]` table: where rates and quotas are counted."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from privyseal_service.config.fields import Live, Model, PathField

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class LimitsConfig(Model):
    """Without `storage`, the workers of this replica count in a file in `server.state_folder`. With it, replicas count
    together in Redis: `redis://HOST:PORT/DB`, or `rediss://` with TLS, whose certificate is checked with the CAs in
    `ca_file`, by default the system's. Its password is in `password_file`, and its user, if any, in the URL.

    A Redis that does not answer within `timeout_s` is unavailable: `when_away` decides whether counted calls are then
    refused, or allowed without being counted. `prefix` separates the keys of several services in one Redis.
    """

    storage: Live[str | None] = None
    password_file: Live[PathField | None] = None
    ca_file: Live[PathField | None] = None
    when_away: Live[Literal["refuse", "allow"]] = "refuse"
    timeout_s: Live[Annotated[float, Field(ge=0.01, le=5, allow_inf_nan=False)]] = 0.25
    prefix: Live[str] = "privyseal"

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be redis://HOST:PORT/DB, or rediss:// with TLS")
        if parts.password is not None:
            raise ValueError(
                "must not have a password in it; put the password in a file, and name the file in password_file"
            )
        if parts.port == 0 or (not parts.path.lstrip("/").isdigit() and parts.path not in {"", "/"}):
            raise ValueError("must be redis://HOST:PORT/DB, and DB a number")
        return url

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError("must be letters, digits and . _ : -, at most 64")
        return prefix

    @model_validator(mode="after")
    def _check(self) -> LimitsConfig:
        redis = {"password_file", "ca_file", "when_away", "timeout_s", "prefix"} & self.model_fields_set
        if self.storage is None and redis:
            raise ValueError(f"without storage there is no Redis: remove {' and '.join(sorted(redis))}, or set storage")
        if self.ca_file is not None and not (self.storage or "").startswith("rediss:"):
            raise ValueError("ca_file needs a storage with TLS, rediss://")
        return self
