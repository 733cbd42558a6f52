"""A Google Cloud KMS for tests: Google's own messages over real gRPC, real RSA, and faults queued by call."""

from tests.fakes.google_kms.faults import (
    Alter,
    Fault,
    Hang,
    Hold,
    Refuse,
    altered_plaintext,
    corrupted_signature,
    other_key,
    other_protection_level,
    unverified,
    wrong_checksum,
)
from tests.fakes.google_kms.server import RING, FakeKms

__all__ = [
    "RING",
    "Alter",
    "FakeKms",
    "Fault",
    "Hang",
    "Hold",
    "Refuse",
    "altered_plaintext",
    "corrupted_signature",
    "other_key",
    "other_protection_level",
    "unverified",
    "wrong_checksum",
]
