"""Decisions as lines of the log."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

from privyseal.transparency.receipts import Receipt
from privyseal_service.domain.decisions import Decision

_LOG = logging.getLogger("privyseal.decision")


class LogRecorder:
    """Tells the log: one line for each decision. It is no audit trail."""

    async def start(self, tell: Callable[[bool], None]) -> None:
        """The log is there."""

    async def close(self) -> None:
        """The log stays open."""

    def require_ready(self) -> None:
        """The log is always ready."""

    async def record(self, decision: Decision) -> Sequence[Receipt]:
        """Write the line."""
        log(decision)
        return ()

    async def record_part(self, decision: Decision) -> Sequence[Receipt]:  # noqa: ARG002 - the protocol's
        """Nothing: a batch is one line."""
        return ()


def log(decision: Decision) -> None:
    """Write a decision to the log, in one line."""
    if _LOG.isEnabledFor(logging.INFO):
        # Made by hand, since looking for the calling line costs more than all the rest of the record.
        message, extra = decision.outcome.value, {"fields": fields(decision)}
        _LOG.handle(_LOG.makeRecord(_LOG.name, logging.INFO, __file__, 0, message, (), None, extra=extra))


def fields(decision: Decision) -> dict[str, object]:
    """A decision as a flat mapping for a structured line; what is empty is left out."""
    found: dict[str, object] = {}
    for name in _NAMES:
        value = getattr(decision, name)
        if value or name == "caller":
            found[name] = value
    found["proof"] = {"method": decision.proof.method, **decision.proof.details}
    found["outcome"], found["code"] = decision.outcome.value, decision.code.name
    context = {name: value for name, value in dataclasses.asdict(decision.context).items() if value}
    if context:
        found["context"] = context
    if len(decision.items) == 1:
        for name in ("checksum", "signature_sha256", "wrapped_key_sha256"):
            digest = getattr(decision.items[0], name)
            if digest and len(digest) == _DIGEST_BYTES:  # what is no checksum may be a session key in the wrong place
                found[name] = digest.hex()
    return found


_DIGEST_BYTES = 32


_WORDED = frozenset({"proof", "context", "outcome", "code", "items"})


_NAMES = tuple(name for name in Decision._fields if name not in _WORDED)
