"""What can go wrong with the audit trail."""

from __future__ import annotations


class AuditError(Exception):
    """A fault of the audit trail; its text is one sentence for an operator and holds no secret."""


class AuditUnavailableError(AuditError):
    """A record could not be put safely on disk, so nothing that depends on it may leave.

    Callers are answered UNAVAILABLE with the reason `AUDIT_UNAVAILABLE`. The text names the file and the system's
    error, for the log and not for a caller.
    """

    reason = "AUDIT_UNAVAILABLE"

    def again(self) -> AuditUnavailableError:
        """The same for another call: an exception that is raised twice drags its first traceback along."""
        return AuditUnavailableError(*self.args)


class WorkerBusyError(AuditUnavailableError):
    """Another process writes under that worker's name."""


class LogIntegrityError(AuditError):
    """The log's files contradict each other or a signed checkpoint. `place` says where, for a person."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


class NotInLogError(AuditError):
    """The log has no such record, checkpoint or tree size (yet)."""


class KeyFileError(AuditError):
    """An audit key, private or public, that cannot be used; the text says what is wrong and what to do."""


class NoteError(AuditError):
    """A checkpoint or signed note that is malformed, or that no known key signed."""


class ReceiptError(AuditError):
    """A receipt that does not prove what it claims; the text says which part fails."""


class PublishError(AuditError):
    """A checkpoint could not be handed to a place outside; it is tried again."""
