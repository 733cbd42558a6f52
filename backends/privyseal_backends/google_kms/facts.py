"""What Google says of a key version, free of Google's message classes, so that what is concluded from it is pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Attestation:
    """An HSM's statement about a key. `content` is gzip; each chain is PEM certificates, the subject's own first."""

    format: str
    content: bytes
    manufacturer_chain: tuple[str, ...] = ()
    owner_card_chain: tuple[str, ...] = ()
    owner_partition_chain: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyFacts:
    """A `CryptoKeyVersion`: enum values by their names, times in RFC 3339, empty where Google sent none."""

    name: str
    state: str
    protection_level: str
    algorithm: str
    create_time: str = ""
    generate_time: str = ""
    import_job: str = ""
    import_time: str = ""
    reimport_eligible: bool = False
    trusted_wrapping_enabled: bool = False
    failure_reason: str = field(default="", repr=False)
    attestation: Attestation | None = None
