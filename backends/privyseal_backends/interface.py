"""What a key store is to Privyseal: read this to use one, and to write another.

A backend is a function `open_store(settings)`, registered under the entry point group `privyseal.backends` with the
URI scheme that it serves as its name. It returns a `KeyStore`; a store opens `Key`s. What only some stores can do is a
protocol of its own: `Decrypter`, `Parallel` and `Observed` on keys, `KeyCreator`, `ProcessBound`, `Computing`,
`Metered` and `Latching` on stores. Find out with `wrappers.capability`, which looks through wrappers of a store.

Every verb is a coroutine and never blocks the event loop: a store that can only block keeps threads of its own.
A deadline is a reading of `time.monotonic()` in seconds; at the deadline the verb gives up with `DeadlineError`, and
work that had not begun by then is not begun.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key


class Mechanism(enum.Enum):
    """One thing that an RSA private key does. A key serves one purpose: see `PURPOSES`."""

    # There is one of each; the hash of an Enum, made of its name by Python code, is slow where each input is looked up.
    __hash__ = object.__hash__

    TYPE1 = "type-1 block"
    """PKCS#1 v1.5 block type 1 over raw data, without DigestInfo: `00 01 FF … FF 00 || data` (RFC 8017, 9.2 step 5)."""
    PKCS1_V1_5_SHA256 = "RSASSA-PKCS1-v1_5 with SHA-256"
    """RFC 8017, 8.2, over a digest that was already computed."""
    PSS_SHA256 = "RSASSA-PSS with SHA-256"
    """RFC 8017, 8.1, MGF1 with SHA-256, salt of 32 bytes, over a digest that was already computed."""
    OAEP_SHA256 = "RSAES-OAEP with SHA-256"
    """RFC 8017, 7.1.2, MGF1 with SHA-256, empty label."""
    OAEP_SHA1 = "RSAES-OAEP with SHA-1"
    """RFC 8017, 7.1.2, MGF1 with SHA-1, empty label."""


class Purpose(enum.Enum):
    """What a key is for. One key never serves two: a type-1 block of 51 bytes would be an RSASSA signature, and the
    decryption of chosen bytes a signature of them."""

    TYPE1 = "type-1 blocks (Capgo)"
    SIGNATURES = "signatures (RSASSA)"
    DECRYPTION = "decryption (RSAES)"


PURPOSES: Mapping[Mechanism, Purpose] = MappingProxyType(
    {
        Mechanism.TYPE1: Purpose.TYPE1,
        Mechanism.PKCS1_V1_5_SHA256: Purpose.SIGNATURES,
        Mechanism.PSS_SHA256: Purpose.SIGNATURES,
        Mechanism.OAEP_SHA256: Purpose.DECRYPTION,
        Mechanism.OAEP_SHA1: Purpose.DECRYPTION,
    }
)
"""The purpose that each mechanism makes of a key."""

_SIGNED_LENGTHS: Mapping[Mechanism, frozenset[int]] = MappingProxyType(
    {
        Mechanism.TYPE1: frozenset({16, 32, 48}),
        Mechanism.PKCS1_V1_5_SHA256: frozenset({32}),
        Mechanism.PSS_SHA256: frozenset({32}),
    }
)


@dataclass(frozen=True)
class SigningInput:
    """What a key signs: formed by a typed operation, never by a caller.

    `data` is 16 bytes (a session key), 32 (a SHA-256) or 48 (Capgo V2's expansion of one) for TYPE1, and the 32 bytes
    of a SHA-256 digest for the RSASSA mechanisms. Anything else raises ValueError, so that no input of another length,
    a DigestInfo of 51 bytes above all, can exist.
    """

    mechanism: Mechanism
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        lengths = _SIGNED_LENGTHS.get(self.mechanism)
        if lengths is None:
            raise ValueError(f"{self.mechanism.value} does not sign")
        if len(self.data) not in lengths:
            raise ValueError(f"{self.mechanism.value} signs {sorted(lengths)} bytes, not {len(self.data)}")


@dataclass(frozen=True)
class Signature:
    """A signature that was verified against the public key before it left the backend.

    `value` is as long as the RSA modulus. `request_id` is the store's own name for the call, empty where it has none.
    `queued_s` and `store_s` are seconds spent waiting inside the backend and in the store.
    """

    value: bytes
    request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0


@dataclass(frozen=True)
class Plaintext:
    """What a decryption gave; `value` is a secret and stays out of the repr. The rest is as in `Signature`."""

    value: bytes = field(repr=False)
    request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0


class PublicKey:
    """An RSA public key, with the forms and names that its users want."""

    def __init__(self, key: RSAPublicKey) -> None:
        self.key = key

    @classmethod
    def from_spki_der(cls, der: bytes) -> PublicKey:
        """From SubjectPublicKeyInfo DER (RFC 5280). Raises ValueError when it is not an RSA key."""
        key = load_der_public_key(der)
        if not isinstance(key, RSAPublicKey):
            raise ValueError("not an RSA public key")
        return cls(key)

    @cached_property
    def modulus_bits(self) -> int:
        """Bits of the modulus."""
        return self.key.key_size

    @cached_property
    def modulus_bytes(self) -> int:
        """Bytes of the modulus, of a signature and of a wrapped key."""
        return (self.key.key_size + 7) // 8

    @cached_property
    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def spki_pem(self) -> str:
        """SubjectPublicKeyInfo, PEM, ending in a newline."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @cached_property
    def pkcs1_pem(self) -> str:
        """RSAPublicKey (RFC 8017, A.1.1), PEM, ending in a newline."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()

    @cached_property
    def fingerprint(self) -> str:
        """Lower-case hex SHA-256 of the SPKI DER, 64 characters."""
        return sha256(self.spki_der).hexdigest()

    @cached_property
    def capgo_key_id(self) -> str:
        """The first 20 characters of the base64 body of the PKCS#1 PEM."""
        return "".join(self.pkcs1_pem.splitlines()[1:-1])[:20]

    def __repr__(self) -> str:
        return f"PublicKey(RSA-{self.modulus_bits}, {self.fingerprint})"


# Custody: where a private key is, where it was made, whether it can leave. Each enum is ordered from the least that
# can be said of a key to the best, so that a configuration can demand a minimum.


class Protection(enum.IntEnum):
    """Where a private key is."""

    UNKNOWN = 1
    SOFTWARE = 2
    HARDWARE = 3


class Origin(enum.IntEnum):
    """Where a private key was made."""

    UNKNOWN = 1
    IMPORTED = 2
    GENERATED_INSIDE = 3


class Export(enum.IntEnum):
    """Whether a private key can leave its store. POSSIBLE_ONCE: not now, but it was outside or could have left."""

    POSSIBLE = 1
    UNKNOWN = 2
    POSSIBLE_ONCE = 3
    NEVER_POSSIBLE = 4


@dataclass(frozen=True)
class Evidence:
    """One thing that a store said of a key: what was asked, and the answer as text (bytes in hex, PEM kept)."""

    name: str
    value: str


@dataclass(frozen=True)
class Custody:
    """Three findings, each with its reasons (a sentence each), and the raw evidence that they rest on."""

    protection: Protection
    protection_reasons: tuple[str, ...]
    origin: Origin
    origin_reasons: tuple[str, ...]
    export: Export
    export_reasons: tuple[str, ...]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class KeyDescription:
    """What is true of a key for as long as it is open.

    `key_version` is the store's own name for it: the hex CKA_ID, the KMS key ARN, Google's version name.
    `mechanisms` is what the key can do, by the store, the key's algorithm, its size and its attributes together.
    `refusals` has a sentence for each other mechanism: why not, and what would work.
    """

    key_version: str
    public_key: PublicKey
    mechanisms: frozenset[Mechanism]
    refusals: Mapping[Mechanism, str]
    custody: Custody


class BackendError(Exception):
    """What can go wrong with a key store; the subclass says what a caller may do about it.

    `part` is what failed, one word or two for a person: "module", "token", "PIN", "object", "attribute", "mechanism",
    "credentials", "network". `message` is one sentence without a full stop that says what happened, `remedy` one that
    says what to do. Neither ever holds a PIN, a token, a session key or a signature.
    """

    def __init__(self, part: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.part = part
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.part}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class CallerError(BackendError):
    """The key cannot do what was asked. Asking again gives the same answer."""


class BusyError(BackendError):
    """The store is there and has too much to do. Ask again after `retry_after_s` seconds."""

    def __init__(self, part: str, message: str, remedy: str = "", *, retry_after_s: float = 0.1) -> None:
        super().__init__(part, message, remedy)
        self.retry_after_s = retry_after_s


class UnavailableError(BackendError):
    """The store does not answer, or lost its state; it may come back by itself. Ask again after `retry_after_s`."""

    def __init__(self, part: str, message: str, remedy: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(part, message, remedy)
        self.retry_after_s = retry_after_s


class LostError(UnavailableError):
    """The store is lost to this process, and another process may well have it: a call hangs inside a module, or a
    library's state cannot be begun anew under the calls inside it. Whoever runs the process ends it and starts one."""


class OperatorError(BackendError):
    """A person has to act: a wrong PIN, a missing key, a refused permission, a key unlike its configuration.
    Never retried by itself, since each try may cost (tokens lock after a few wrong PINs)."""


class IntegrityError(BackendError):
    """The store gave an answer that is not true: a signature that does not verify, a wrong checksum, another key's
    name. The answer was dropped."""


class DeadlineError(BackendError):
    """The caller's deadline passed first. The store may or may not have done the work; its answer was dropped."""


SigningResult: TypeAlias = Signature | BackendError
"""What became of one input: a verified signature, or the error that it alone met."""


@runtime_checkable
class Key(Protocol):
    """An open key. Safe to use from many tasks of the event loop that opened it."""

    @property
    def description(self) -> KeyDescription:
        """What the key is; constant while it is open."""

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """Sign each input and return the results in the same order, one for each.

        A failure is a result, not an exception: it stands in the place of its own input and the others go on. Every
        signature was verified against the public key. An input whose mechanism the key does not have gives
        `CallerError` without a call to the store. When the task is cancelled, inputs not begun are never begun.
        """


@runtime_checkable
class Parallel(Protocol):
    """A key that says how much its store takes at once. A caller that hands over much more only moves the waiting into
    the store, where it can neither be ordered nor taken back."""

    @property
    def parallel_inputs(self) -> int:
        """Inputs of any number of calls that are worked on, or taken up together, at one time: at least 1."""


@runtime_checkable
class Observed(Protocol):
    """A key that follows its store by itself: it notices what breaks, mends what can be mended in the background, and
    tells. The state of a key that is not `Observed` is learned from the answers to its callers alone."""

    def observe(self, tell: Callable[[BackendError | None], None]) -> None:
        """Have `tell` called now and at every change, on the event loop of this call, with what a caller would meet:
        None when the key serves, `UnavailableError` while it heals, `LostError` when this process cannot heal it,
        `OperatorError` when it waits for a person, `IntegrityError` when another key has its place."""

    def forget(self) -> None:
        """The key is used no more: tell nobody of it again, and look for it no more. Calls in flight may still end
        well. Safe to call twice."""


@runtime_checkable
class Decrypter(Protocol):
    """A key that decrypts."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """Decrypt `ciphertext` (as long as the modulus) with OAEP_SHA256 or OAEP_SHA1. Raises BackendError;
        a ciphertext that was not made for this key is `CallerError`, in the same words whatever is wrong with it."""


@runtime_checkable
class KeyStore(Protocol):
    """All that one backend has open in this process: modules, tokens, clients, connections."""

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        """Find the key that `uri` names and learn what it is.

        `fingerprint` (64 lower-case hex characters) pins the public key: another key found under the same name, now or
        whenever it is found again later, raises `IntegrityError`. Raises `CallerError` for a URI that is not well
        formed, `OperatorError` where a person has to act, `UnavailableError` or `BusyError` where trying again later
        may help. Several keys may be opened at once.
        """

    async def close(self) -> None:
        """Finish what is in flight, then release everything. Safe to call twice; the keys are dead after it."""


@runtime_checkable
class ProcessBound(Protocol):
    """A store whose state belongs to the process, so that the surest way to begin it anew is a new process."""

    def prefer_new_process(self) -> None:
        """Be told, before a key is opened, that a process costs little here: a new one takes over once a key tells
        `LostError`. The store then tells that at each loss of what it had, and leaves it to the new process."""


@runtime_checkable
class Computing(Protocol):
    """A store that may work on the cores of this machine, as software tokens do, and not on a device of its own."""

    def use_cores(self, cores: int) -> None:
        """Be told, before a key is opened, how many cores this process may keep busy: at least 1."""


@runtime_checkable
class Metered(Protocol):
    """A store that keeps to a quota, which a service's processes have to share."""

    def share_quota(self, processes: int) -> None:
        """Be told, before a key is opened and whenever it changes, how many processes there are, this one among them:
        keep to an equal part of the configured quota."""


@runtime_checkable
class Latching(Protocol):
    """A store whose tokens count wrong PINs, so that what one process learned must keep the others from trying."""

    def latch(self, uri: str, error: OperatorError) -> None:
        """Be told that the token of `uri` refused its PIN to another process: log in there no more. What is logged in
        goes on."""


@runtime_checkable
class KeyCreator(Protocol):
    """A store that can make keys inside itself."""

    async def create_key(self, uri: str, purpose: Purpose = Purpose.TYPE1, modulus_bits: int = 2048) -> Key:
        """Generate a key inside the store under the name in `uri`: sensitive, never extractable, for one purpose.
        Raises `OperatorError` when a key of that name exists; nothing is ever replaced."""

    async def import_key(self, uri: str, private_key_pkcs1_der: bytes, purpose: Purpose = Purpose.TYPE1) -> Key:
        """Put an existing RSA key (RSAPrivateKey DER, RFC 8017 A.1.2) under the name in `uri`: sensitive, not
        extractable, origin imported. Checked by a signature before it returns; on failure nothing stays behind."""


OpenStore: TypeAlias = Callable[[Mapping[str, object]], KeyStore]
"""A backend's entry point. It takes the backend's own settings from the service's configuration (`[stores.SCHEME]`; an
unknown or unfit setting raises `OperatorError`) and does no I/O."""
