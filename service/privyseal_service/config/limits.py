"""The `[limits]` table of the configuration: where rates and quotas are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from privyseal_service.config.fields import Model


class LimitsConfig(Model):
    """Without `storage`, the workers of this replica count in a file in `server.state_folder`. With it, replicas count
    together in a Redis: `redis://HOST:PORT/DB`, or `rediss://` with TLS, whose certificate may be one of the CAs in
    `ca_file`. Its password is in `password_file`, and its user, where it has one, in the URL.

    A Redis that does not answer within `timeout_s` is away: `when_away` says whether counted calls are then refused or
    allowed without being counted. `prefix` keeps the keys of several services apart.
    """

    storage: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    when_away: Literal["refuse", "allow"] = "refuse"
    timeout_s: Annotated[float, Field(ge=0.01, le=5, allow_inf_nan=False)] = 0.25
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "privyseal"

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be redis://HOST:PORT/DB, or rediss:// with TLS")
        if parts.password is not None:
            raise ValueError("must not have a password in it: put it in a file, and name that as password_file")
        if parts.port == 0 or (not parts.path.lstrip("/").isdigit() and parts.path not in {"", "/"}):
            raise ValueError("must be redis://HOST:PORT/DB, the DB a number")
        return url

    @model_validator(mode="after")
    def _check(self) -> LimitsConfig:
        redis = {"password_file", "ca_file", "when_away", "timeout_s", "prefix"} & self.model_fields_set
        if self.storage is None and redis:
            raise ValueError(f"{' and '.join(sorted(redis))}: is about a Redis, and storage names none")
        if self.ca_file is not None and not (self.storage or "").startswith("rediss:"):
            raise ValueError("ca_file: is for rediss://, with TLS")
        return self

    def within(self, folder: Path) -> LimitsConfig:
        """The same with relative paths made absolute."""
        paths = {name: getattr(self, name) for name in ("password_file", "ca_file")}
        return self.model_copy(update={name: folder / path for name, path in paths.items() if path is not None})
