"""A key store made in software, for tests alone: real RSA by pyca/cryptography, and faults on cue.

Keys are named `software:NAME`. They come from `SoftwareStore.add`, from `create_key` and `import_key`, or from the
settings: `keys = { NAME = "/path/of/a/private.pem" }`, so that the real program can serve them through the entry point
that `tests.support.entry_point` writes. Faults are set on the `Faults` of a store while it runs, or come from the
settings by name. Every private operation is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from privyseal_backends.interface import (
    PURPOSES,
    BackendError,
    BusyError,
    CallerError,
    Custody,
    DeadlineError,
    Evidence,
    Export,
    IntegrityError,
    Key,
    KeyDescription,
    Mechanism,
    OperatorError,
    Origin,
    Plaintext,
    Protection,
    PublicKey,
    Purpose,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from privyseal_backends.verification import verify


@dataclass
class Faults:
    """What is wrong with the store; all of it can change at any time.

    `away` is whether it does not answer, `away_file` the same for as long as that file exists. `hang` never answers an
    `open_key`. `delay_s` is how long each private operation takes. `fail` is called with each input (None for a
    decryption) and may return an exception to give in its place; one that is no BackendError is raised, as a defect.
    """

    away: bool = False
    away_file: str = ""
    busy: bool = False
    hang: bool = False
    delay_s: float = 0.0
    fail: Callable[[SigningInput | None], Exception | None] = lambda _: None

    def is_away(self) -> bool:
        return self.away or bool(self.away_file and Path(self.away_file).exists())


@dataclass
class Calls:
    """What the store was asked for."""

    opened: int = 0
    signed: int = 0
    decrypted: int = 0
    closed: int = 0

    @property
    def private(self) -> int:
        """Private operations of any kind."""
        return self.signed + self.decrypted


@dataclass
class StoredKey:
    """A private key, and what the store says of it."""

    private_key: rsa.RSAPrivateKey
    mechanisms: frozenset[Mechanism]
    refusals: Mapping[Mechanism, str] = field(default_factory=dict)
    protection: Protection = Protection.SOFTWARE
    origin: Origin = Origin.GENERATED_INSIDE
    export: Export = Export.NEVER_POSSIBLE
    key_version: str = "01"

    def description(self) -> KeyDescription:
        public_key = PublicKey(self.private_key.public_key())
        custody = Custody(
            self.protection,
            ("it is a software store for tests.",),
            self.origin,
            ("the store says so.",),
            self.export,
            ("the store says so.",),
            (Evidence("store", "software"),),
        )
        return KeyDescription(self.key_version, public_key, self.mechanisms, self.refusals, custody)


def mechanisms_of(purpose: Purpose) -> frozenset[Mechanism]:
    """All that a key for the purpose can do."""
    return frozenset(mechanism for mechanism, of in PURPOSES.items() if of is purpose)


class SoftwareStore:
    """Implements KeyStore and KeyCreator."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.calls = Calls()
        self.keys: dict[str, StoredKey] = {}
        self.open_keys: list[SoftwareKey] = []

    def add(self, name: str, private_key: rsa.RSAPrivateKey, purpose: Purpose = Purpose.TYPE1, **said: object) -> str:
        """Put a key there; returns its URI. `said` are fields of StoredKey."""
        mechanisms = said.pop("mechanisms", mechanisms_of(purpose))
        self.keys[name] = StoredKey(private_key, mechanisms, **said)  # type: ignore[arg-type]
        return f"software:{name}"

    def __call__(self, settings: Mapping[str, object]) -> SoftwareStore:
        """As a backend's `open_store`: the store itself, with the faults that the settings name."""
        known = {f.name for f in fields(Faults)}
        for name, value in settings.items():
            if name == "keys":
                for key, file in value.items():  # type: ignore[attr-defined]
                    private_key = load_pem_private_key(Path(file).read_bytes(), None)
                    assert isinstance(private_key, rsa.RSAPrivateKey)
                    self.add(key, private_key)
            elif name in known:
                setattr(self.faults, name, value)
            else:
                raise OperatorError("settings", f"there is no setting {name!r}", "take it away")
        return self

    def backends(self, scheme: str) -> SoftwareStore:
        """As `registry.backend`, for a service that is given its backends."""
        if scheme != "software":
            raise OperatorError("backend", f"no key store serves the scheme {scheme!r}")
        return self

    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        self.calls.opened += 1
        if self.faults.hang:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self._answer()
        scheme, _, name = uri.partition(":")
        if scheme != "software" or not name:
            raise CallerError("URI", "it is not software:NAME")
        if name not in self.keys:
            raise OperatorError("object", f"there is no key {name}", "make it")
        key = SoftwareKey(self, self.keys[name], fingerprint)
        self.open_keys.append(key)
        return key

    async def create_key(self, uri: str, purpose: Purpose = Purpose.TYPE1, modulus_bits: int = 2048) -> Key:
        self._refuse_existing(uri)
        private_key = rsa.generate_private_key(65537, modulus_bits)
        self.add(uri.partition(":")[2], private_key, purpose)
        return await self.open_key(uri)

    async def import_key(self, uri: str, private_key_pkcs1_der: bytes, purpose: Purpose = Purpose.TYPE1) -> Key:
        self._refuse_existing(uri)
        private_key = load_der_private_key(private_key_pkcs1_der, None)
        assert isinstance(private_key, rsa.RSAPrivateKey)
        said = {"origin": Origin.IMPORTED, "export": Export.POSSIBLE_ONCE}
        self.add(uri.partition(":")[2], private_key, purpose, **said)
        return await self.open_key(uri)

    def _refuse_existing(self, uri: str) -> None:
        self._answer()
        if uri.partition(":")[2] in self.keys:
            raise OperatorError("object", "a key of that name exists", "choose another name")

    def _answer(self) -> None:
        if self.calls.closed:
            raise UnavailableError("store", "it is closed")
        if self.faults.is_away():
            raise UnavailableError("network", "the store with the secret name hsm-7 does not answer", "plug it in")
        if self.faults.busy:
            raise BusyError("queue", "hsm-7 has too much to do", retry_after_s=0.25)

    async def close(self) -> None:
        self.calls.closed += 1


class SoftwareKey:
    """Implements Key and Decrypter."""

    def __init__(self, store: SoftwareStore, stored: StoredKey, fingerprint: str | None) -> None:
        self._store = store
        self._stored = stored
        self._description = stored.description()
        if fingerprint is not None and fingerprint != self._description.public_key.fingerprint:
            raise IntegrityError("object", "another key has the name", "find out why")

    @property
    def description(self) -> KeyDescription:
        return self._description

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        return [await self._sign(signing_input, deadline_s) for signing_input in inputs]

    async def _sign(self, signing_input: SigningInput, deadline_s: float) -> SigningResult:
        if signing_input.mechanism not in self._description.mechanisms:
            return CallerError("mechanism", f"the key has no {signing_input.mechanism.value}")
        try:
            queued_s = await self._work(signing_input, deadline_s)
        except BackendError as error:
            return error
        started_s = time.monotonic()
        self._store.calls.signed += 1
        value = software_signature(self._stored.private_key, signing_input)
        verify(self._description.public_key, signing_input, value)
        return Signature(value, f"call-{self._store.calls.signed}", queued_s, time.monotonic() - started_s)

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        if mechanism not in self._description.mechanisms:
            raise CallerError("mechanism", f"the key has no {mechanism.value}")
        queued_s = await self._work(None, deadline_s)
        self._store.calls.decrypted += 1
        digest = {Mechanism.OAEP_SHA256: SHA256, Mechanism.OAEP_SHA1: SHA1}[mechanism]()
        try:
            value = self._stored.private_key.decrypt(ciphertext, padding.OAEP(padding.MGF1(digest), digest, None))
        except ValueError:
            raise CallerError("ciphertext", "it does not decrypt") from None
        return Plaintext(value, f"call-{self._store.calls.private}", queued_s, 0.0)

    async def _work(self, signing_input: SigningInput | None, deadline_s: float) -> float:
        """Wait as the faults say; the seconds waited."""
        faults = self._store.faults
        self._store._answer()
        failure = faults.fail(signing_input)
        if failure is not None:
            raise failure
        left_s = deadline_s - time.monotonic()
        if left_s <= faults.delay_s:
            await asyncio.sleep(max(0.0, left_s))
            raise DeadlineError("queue", "the deadline passed in hsm-7's queue")
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        return faults.delay_s


def software_signature(private_key: rsa.RSAPrivateKey, signing_input: SigningInput) -> bytes:
    """What the mechanism makes of the input."""
    match signing_input.mechanism:
        case Mechanism.TYPE1:
            return private_key.sign(signing_input.data, padding.PKCS1v15(), NoDigestInfo())  # type: ignore[arg-type]
        case Mechanism.PKCS1_V1_5_SHA256:
            return private_key.sign(signing_input.data, padding.PKCS1v15(), Prehashed(SHA256()))
        case _:
            pss = padding.PSS(padding.MGF1(SHA256()), salt_length=32)
            return private_key.sign(signing_input.data, pss, Prehashed(SHA256()))


def open_store(settings: Mapping[str, object]) -> SoftwareStore:
    """The entry point for the real program."""
    return SoftwareStore()(settings)
