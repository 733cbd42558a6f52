"""The operations that a grant can name, and the claims of a token."""

from __future__ import annotations

import enum


class Operation(enum.Enum):
    """What a call asks for. Grants name the first four; who has any grant on a key may see it, and whoever has a name
    may ask the audit trail for proofs."""

    __hash__ = object.__hash__  # as in `Mechanism`

    WRAP_SESSION_KEY = "wrap-session-key"
    SIGN_CHECKSUM = "sign-checksum"
    UNWRAP_SESSION_KEY = "unwrap-session-key"
    LIST_RECORDS = "list-records"
    LIST_KEYS = "list-keys"
    GET_KEY = "get-key"
    GET_CHECKPOINT = "get-checkpoint"
    GET_INCLUSION_PROOF = "get-inclusion-proof"
    GET_CONSISTENCY_PROOF = "get-consistency-proof"


GRANTABLE = (Operation.WRAP_SESSION_KEY, Operation.SIGN_CHECKSUM, Operation.UNWRAP_SESSION_KEY)
"""The operations on a key that a grant can name; batches are `sign-checksum`."""


Claims = tuple[tuple[str, str], ...]
"""What of a caller's token is kept, by name; nothing for a caller with a certificate."""
