"""What can be wrong with a log, a key, a checkpoint or a receipt."""

from __future__ import annotations


class AuditError(Exception):
    """A fault of the audit trail; its text is one sentence for a person and holds no secret."""


class KeyFileError(AuditError):
    """An audit key, private or public, that cannot be used; the text is what is wrong and what to do."""


class NoteError(AuditError):
    """A checkpoint or signed note that is malformed, or that no known key signed."""


class ReceiptError(AuditError):
    """A receipt that does not prove what it claims; the text names the part that fails."""
