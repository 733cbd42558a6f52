"""Keys in the memory of an agent on the same machine: `labagent:/path/of/the.sock?key=NAME`. For a lab.

The agent (`python -m privyseal_labagent.agent`) has to run first, as the same user as the service: it serves no other.
Settings stand in `[stores.labagent]`, see `address.Settings`.

Errors: `CallerError` for a malformed URI, a mechanism that the key does not have, a ciphertext that does not open;
`OperatorError` for a key that the agent does not have, and for an agent that refuses this user; `BusyError` when the
agent has too much to do; `UnavailableError` when no agent answers at the socket; `IntegrityError` for an answer that is
not true; `DeadlineError`.
"""

from __future__ import annotations

from collections.abc import Mapping

from privyseal_labagent.address import parse_settings
from privyseal_labagent.store import LabAgentStore


def open_store(settings: Mapping[str, object]) -> LabAgentStore:
    """The entry point; see `privyseal_backends.interface.OpenStore`. It does no I/O: no agent need run yet."""
    return LabAgentStore(parse_settings(settings))
