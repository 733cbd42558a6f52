"""The operations that a grant can name, and the claims of a token."""

from __future__ import annotations

import enum


class Operation(enum.Enum):
    """The operation of a call. Grants name the first four. A caller with any grant on a key may see the key, and every
    identified caller may get proofs from the audit trail."""

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
"""The kept claims of a caller's token, by name; empty for a caller with a certificate."""
