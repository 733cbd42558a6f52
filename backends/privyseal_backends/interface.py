"""The interface of a key store: read this to use one, and to write one.

A backend is a function `open_store(settings)`, registered under the entry point group `privyseal.backends` with the
URI scheme that it serves as its name. It returns a `KeyStore`; a store opens `Key`s. What only some stores can do is a
protocol of its own: `Decrypter`, `Parallel` and `Observed` on keys, `KeyCreator`, `ProcessBound`, `Computing`,
`Metered` and `Latching` on stores. Find out with `wrappers.capability`, which looks through wrappers of a store.

Every verb is a coroutine and never blocks the event loop; a store whose library blocks has threads of its own.
A deadline is a reading of `time.monotonic()` in seconds. At the deadline the verb raises `DeadlineError`, and work that
has not begun by then never begins.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

from privyseal_backends.public_key import PublicKey as PublicKey  # noqa: PLC0414 - part of the interface


class Mechanism(enum.Enum):
    """One operation of an RSA private key. A key serves one purpose: see `PURPOSES`."""

    # The members are unique. The hash that Enum makes of a name in Python code is slow, and each input is looked up.
    __hash__ = object.__hash__

    TYPE1 = "type-1 block"
    """PKCS#1 v1.5 block type 1 over raw data, without DigestInfo: `00 01 FF … FF 00 || data` (RFC 8017, 9.2 step 5)."""
    PKCS1_V1_5_SHA256 = "RSASSA-PKCS1-v1_5 with SHA-256"
    """RFC 8017, 8.2, over a digest that the caller computed."""
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
    """An input of a signature: formed by a typed operation, never by a caller.

    `data` is 16 bytes (a session key), 32 (a SHA-256) or 48 (Capgo V2's expansion of one) for TYPE1, and the 32 bytes
    of a SHA-256 digest for the RSASSA mechanisms. Any other length raises ValueError, so that no other input can
    exist: a DigestInfo of 51 bytes as a TYPE1 input would be an RSASSA signature.
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
    """The result of a decryption. `value` is secret and stays out of the repr. The rest is as in `Signature`."""

    value: bytes = field(repr=False)
    request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0


# Custody: where a private key is, where it was made, whether it can leave. Each enum is ordered from the weakest
# finding to the strongest, so that a configuration can demand a minimum.


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
    """One statement of a store about a key: what was asked, and the answer as text (bytes in hex, PEM unchanged)."""

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
    """The properties of a key, constant while it is open.

    `key_version` is the store's own name for it: the hex CKA_ID, the KMS key ARN, Google's version name.
    `mechanisms` is what the key can do, considering the store, the key's algorithm, its size and its attributes.
    `refusals` has a sentence for each other mechanism: why not, and what works.
    """

    key_version: str
    public_key: PublicKey
    mechanisms: frozenset[Mechanism]
    refusals: Mapping[Mechanism, str]
    custody: Custody


class BackendError(Exception):
    """An error of a key store; the subclass decides what a caller may do about it.

    `part` is what failed, in one or two words: "module", "token", "PIN", "object", "attribute", "mechanism",
    "credentials", "network". `message` states what happened, `remedy` what to do, each in one sentence without a full
    stop. Neither holds a PIN, a token, a session key or a signature.
    """

    def __init__(self, part: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.part = part
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.part}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


class CallerError(BackendError):
    """The key cannot do what was asked. A retry gives the same answer."""


class BusyError(BackendError):
    """The store is available and overloaded. Retry after `retry_after_s` seconds."""

    def __init__(self, part: str, message: str, remedy: str = "", *, retry_after_s: float = 0.1) -> None:
        super().__init__(part, message, remedy)
        self.retry_after_s = retry_after_s


class UnavailableError(BackendError):
    """The store does not answer, or has lost its state; it may recover by itself. Retry after `retry_after_s`."""

    def __init__(self, part: str, message: str, remedy: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(part, message, remedy)
        self.retry_after_s = retry_after_s


class ProcessRestartRequired(UnavailableError):  # noqa: N818 - the name says what to do
    """The store is lost to this process only, and a new process can use it: a call hangs inside a module, or a library
    cannot be initialised again while calls are inside it. The process is to be ended and started again."""


class OperatorError(BackendError):
    """A person has to act: a wrong PIN, a missing key, a refused permission, a key unlike its configuration. It is
    never retried automatically, since a try may cost something: tokens lock after a few wrong PINs."""


class IntegrityError(BackendError):
    """The store gave a wrong answer: a signature that does not verify, a wrong checksum, another key's name. The answer
    was dropped."""


class DeadlineError(BackendError):
    """The caller's deadline passed first. The store may have done the work; its answer was dropped."""


SigningResult: TypeAlias = Signature | BackendError
"""The result of one input: a verified signature, or its own error."""


@runtime_checkable
class Key(Protocol):
    """An open key. Safe to use from many tasks of the event loop that opened it."""

    @property
    def description(self) -> KeyDescription:
        """The properties of the key, constant while it is open."""

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """Sign each input and return the results in the same order, one for each.

        A failure is the result of its own input and not an exception, so that the others continue. Every signature was
        verified against the public key. An input whose mechanism the key lacks gives `CallerError` without a call to
        the store. When the task is cancelled, inputs that have not begun never begin.
        """


@runtime_checkable
class Parallel(Protocol):
    """A key that knows how many inputs its store works on together. A caller that hands over many more only moves the
    waiting into the store, where it can be neither ordered nor cancelled."""

    @property
    def parallel_inputs(self) -> int:
        """The inputs, of any number of calls, that the store works on at one time: at least 1."""


@runtime_checkable
class Observed(Protocol):
    """A key that monitors its store: it detects failures, repairs in the background what can be repaired, and reports.
    The state of a key that is not `Observed` is learned only from the results of its calls."""

    def observe(self, on_change: Callable[[BackendError | None], None]) -> None:
        """Call `on_change` now and at every change, on the event loop of this call, with what a call would meet: None
        when the key serves, `UnavailableError` while it recovers, `ProcessRestartRequired` when only a new process
        recovers it, `OperatorError` when it waits for a person, `IntegrityError` when another key has its place."""

    def forget(self) -> None:
        """Stop monitoring the key: it is not used any more. Calls in flight may still succeed. Safe to call twice."""


@runtime_checkable
class Decrypter(Protocol):
    """A key that decrypts."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """Decrypt `ciphertext` (as long as the modulus) with OAEP_SHA256 or OAEP_SHA1. Raises BackendError. For a
        ciphertext that was not made for this key it is `CallerError`, with the same text for every defect."""


@runtime_checkable
class KeyStore(Protocol):
    """Everything that one backend has open in this process: modules, tokens, clients, connections."""

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        """Find the key that `uri` names, and read its properties.

        `fingerprint` (64 lower-case hex characters) pins the public key: another key under the same name, now or when
        it is found again later, raises `IntegrityError`. Raises `CallerError` for a malformed URI, `OperatorError`
        where a person has to act, `UnavailableError` or `BusyError` where a retry may help. Several keys may be opened
        at the same time.
        """

    async def close(self) -> None:
        """Finish the calls in flight, then release everything. Safe to call twice. The keys are unusable after it."""


@runtime_checkable
class ProcessBound(Protocol):
    """A store whose state belongs to the process, so that a new process is the surest way to initialise it again."""

    def prefer_new_process(self) -> None:
        """Prefer new processes: called before a key is opened, where a new process takes over once a key reports
        `ProcessRestartRequired`. The store then reports that at each loss, and repairs nothing itself."""


@runtime_checkable
class Computing(Protocol):
    """A store that may compute on the cores of this machine, as software tokens do, and not on its own device."""

    def use_cores(self, cores: int) -> None:
        """Set how many cores this process may use, at least 1. Called before a key is opened."""


@runtime_checkable
class Metered(Protocol):
    """A store with a quota, which the processes of a service share."""

    def share_quota(self, processes: int) -> None:
        """Use an equal share of the configured quota for this many processes, this one included. Called before a key is
        opened, and at each change."""


@runtime_checkable
class Latching(Protocol):
    """A store whose tokens count wrong PINs, so that a PIN that one process had refused must not be tried by others."""

    def latch(self, uri: str, error: OperatorError) -> None:
        """Log in to the token of `uri` no more: it refused its PIN to another process. Existing logins continue."""


@runtime_checkable
class KeyCreator(Protocol):
    """A store that can make keys inside itself."""

    async def create_key(self, uri: str, purpose: Purpose = Purpose.TYPE1, modulus_bits: int = 2048) -> Key:
        """Generate a key inside the store under the name in `uri`: sensitive, never extractable, for one purpose.
        Raises `OperatorError` when a key of that name exists; no key is ever replaced."""

    async def import_key(self, uri: str, private_key_pkcs1_der: bytes, purpose: Purpose = Purpose.TYPE1) -> Key:
        """Store an existing RSA key (RSAPrivateKey DER, RFC 8017 A.1.2) under the name in `uri`: sensitive, not
        extractable, origin imported. It is checked by a signature first; after a failure nothing stays behind."""


OpenStore: TypeAlias = Callable[[Mapping[str, object]], KeyStore]
"""A backend's entry point. It takes the backend's own settings from the service's configuration (`[stores.SCHEME]`; an
unknown or unfit setting raises `OperatorError`) and does no I/O."""
