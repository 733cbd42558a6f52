"""The `[identity]` table: client certificates that are denied."""

from __future__ import annotations

import re

from pydantic import field_validator

from privyseal_service.config.fields import Live, Model
from privyseal_service.domain.caller import DeniedCertificates


class IdentityConfig(Model):
    """Client certificates that are denied, as `sha256:HEX` (of the DER) or `serial:HEX`, colons allowed."""

    denied_certificates: Live[tuple[str, ...]] = ()

    @field_validator("denied_certificates")
    @classmethod
    def _check(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        normal = tuple(
            kind + colon + rest.replace(":", "").lower() for kind, colon, rest in (v.partition(":") for v in values)
        )
        for value in normal:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}|serial:[0-9a-f]{1,40}", value):
                raise ValueError("each must be sha256: and 64 hex digits, or serial: and hex digits")
        return normal

    def denied(self) -> DeniedCertificates:
        """Return them in the form in which certificates are looked up."""
        parts = [value.split(":") for value in self.denied_certificates]
        return DeniedCertificates(
            frozenset(rest for kind, rest in parts if kind == "sha256"),
            frozenset(int(rest, 16) for kind, rest in parts if kind == "serial"),
        )
