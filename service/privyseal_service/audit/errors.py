"""What can go wrong with keeping the audit trail. What anyone can find wrong with it is privyseal.transparency's."""

from __future__ import annotations

from privyseal.transparency.errors import AuditError


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


class SequencerBusyError(AuditError):
    """Another process sequences the log; there can be only one."""


class LogIntegrityError(AuditError):
    """The log's files contradict each other or a signed checkpoint. `place` is where, for a person."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


class NotInLogError(AuditError):
    """The log has no such record, checkpoint or tree size (yet)."""


class PublishError(AuditError):
    """A checkpoint could not be handed to a place outside; it is tried again."""
