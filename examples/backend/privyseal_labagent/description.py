"""What is true of a key: pure functions of what the agent said of it, so that they are easily tested."""

from __future__ import annotations

from privyseal_backends.interface import (
    PURPOSES,
    Custody,
    Evidence,
    Export,
    KeyDescription,
    Mechanism,
    Origin,
    Protection,
    PublicKey,
    Purpose,
)

_SIZES = (2048, 3072, 4096)
PURPOSE_NAMES = {
    "type1": Purpose.TYPE1,
    "signatures": Purpose.SIGNATURES,
    "decryption": Purpose.DECRYPTION,
}
"""The agent's name of each purpose. A key is started for one, and the agent refuses the others by itself too."""


def describe(public_key: PublicKey, purpose: str, socket: str, key: str) -> KeyDescription:
    """All that the service wants to know. Each mechanism is either among those that the key has, or has a sentence."""
    refusals = {
        mechanism: reason
        for mechanism in Mechanism
        if (reason := _refusal(mechanism, PURPOSE_NAMES[purpose], public_key.modulus_bits))
    }
    return KeyDescription(
        key_version=f"{key}-{public_key.fingerprint[:16]}",
        public_key=public_key,
        mechanisms=frozenset(Mechanism) - refusals.keys(),
        refusals=refusals,
        custody=_custody(socket, key, purpose),
    )


def _refusal(mechanism: Mechanism, purpose: Purpose, bits: int) -> str:
    """Why the key does not have a mechanism, and what would work; empty where it has it."""
    if PURPOSES[mechanism] is not purpose:
        return f"the agent holds the key for {purpose.value} alone; start it with a key for {PURPOSES[mechanism].value}"
    if bits not in _SIZES:
        return f"the key is RSA-{bits}; use one of {', '.join(map(str, _SIZES))} bits"
    if mechanism is Mechanism.TYPE1 and bits != 2048:
        return f"Capgo's devices read exactly 256 bytes and the key is RSA-{bits}; use one of 2048 bits"
    return ""


def _custody(socket: str, key: str, purpose: str) -> Custody:
    """The least that can be said: whoever reads the agent's memory, or its file and passphrase, has the key. It is for
    a configuration, and not for a backend, to call that good enough."""
    return Custody(
        protection=Protection.SOFTWARE,
        protection_reasons=("The key is in the memory of a process on the service's own machine.",),
        origin=Origin.IMPORTED,
        origin_reasons=("The agent read the key from a file.",),
        export=Export.POSSIBLE,
        export_reasons=("Whoever can read the agent's memory, or its file and the passphrase, can copy the key.",),
        evidence=(Evidence("agent.socket", socket), Evidence("agent.key", key), Evidence("agent.purpose", purpose)),
    )
