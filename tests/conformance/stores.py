"""The key stores that the conformance suite runs on. To add one, write one function like these and name it in `STORES`.

A function gets an empty folder and yields a `StoreUnderTest`: a running store, its keys, what is known of them without
the backend's help, and how to make the store fail. It ends whatever it started.
"""

from __future__ import annotations

import contextlib
import enum
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from privyseal_backends.interface import Export, Mechanism, Origin, Protection
from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme
from tests.fakes import fault_proxy, google_kms
from tests.fakes.fault_proxy import Answer, Cut, FaultProxy, Rewrite, throttled
from tests.fakes.google_kms import FakeKms, Hold, Refuse, corrupted_signature
from tests.support import aws_environment, ministack
from tests.support.shim import Ckr, FaultShim
from tests.support.softhsm import SoftHsmToken, generate_rsa_key, import_rsa_key, make_token

VECTORS = Path(__file__).parent.parent / "vectors"

CAPGO = (WrapScheme.CAPGO, SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3)
RSASSA = (SignatureScheme.RSASSA_PKCS1_V1_5_SHA256, SignatureScheme.RSASSA_PSS_SHA256)
SIGNING = frozenset({Mechanism.TYPE1, Mechanism.PKCS1_V1_5_SHA256, Mechanism.PSS_SHA256})
LARGE = SIGNING - {Mechanism.TYPE1}
"""What an RSA-2048 key that may sign can do where the store restricts nothing, and what a larger one can."""

MANY = 1000


class Fault(enum.Enum):
    """What a store can be made to do to every private operation, until it is told to stop."""

    AWAY = "away"
    """It does not answer, and opening a key fails too."""
    BUSY = "busy"
    """It has too much to do."""
    CORRUPTED = "corrupted"
    """Its signatures are wrong by a bit."""
    REFUSED = "refused"
    """It permits nothing."""
    HANGS = "hangs"
    """It answers after the fault was taken away, not earlier."""


class Kind(enum.Enum):
    """What becomes of an operation that fails, on either face."""

    INPUT = "the input is unfit"
    CALLER = "the key cannot do that"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    OPERATOR = "a person has to act"
    INTEGRITY = "the store's answer is not true"
    DEADLINE = "out of time"
    GONE = "the service has ended"


@dataclass(frozen=True)
class KnownAnswer:
    """What a scheme makes of an input with a key, byte by byte, according to somebody else."""

    scheme: Scheme
    data: bytes = field(repr=False)
    output: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyUnderTest:
    """A key of the store, and what is true of it, known by another way than the backend.

    `can` is what it can do, `schemes` what a service enrols it for (a part of that: one purpose). `place` are words
    that its evidence must hold, as they tell where it is.
    """

    name: str
    uri: str
    public_key: rsa.RSAPublicKey
    can: frozenset[Mechanism]
    schemes: tuple[Scheme, ...]
    custody: tuple[Protection, Origin, Export]
    place: tuple[str, ...]
    known: tuple[KnownAnswer, ...] = ()


@dataclass(frozen=True)
class StoreUnderTest:
    """A running key store.

    `scheme` names the backend, by its entry point; `settings` go into `[stores.SCHEME]`. `in_this_process` is around
    everything that opens a key, here or in a program that is started from here. `faults` break the store until `clear`;
    `refused` is what a caller gets for `Fault.REFUSED`. `private_calls` counts the private operations that reached the
    store, and `at_once` is how many are in it together at most. `impatient` are settings with which opening a key gives
    up soon. `absent` is the URI of a key that is not there, `new` one under which the store makes a key (empty
    where it makes none), `malformed` are some that name none. `takes_no_key` is whether no key can be brought into it.
    `secrets` are words that nobody may ever read, `places` those that no caller of the service may.
    """

    scheme: str
    keys: tuple[KeyUnderTest, ...]
    faults: Mapping[Fault, Callable[[], None]]
    clear: Callable[[], None]
    private_calls: Callable[[], int]
    at_once: int
    absent: str
    malformed: tuple[str, ...]
    refused: Kind
    new: str = ""
    takes_no_key: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    impatient: Mapping[str, object] = field(default_factory=dict)
    in_this_process: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    secrets: tuple[str, ...] = ()
    places: tuple[str, ...] = ()

    @property
    def signer(self) -> KeyUnderTest:
        """A key that signs."""
        return next(key for key in self.keys if key.can & SIGNING)

    @property
    def one_of_each(self) -> tuple[KeyUnderTest, ...]:
        """A key that signs and one that decrypts, where there is one."""
        return (self.signer, *[key for key in self.keys if not key.can & SIGNING][:1])

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Break the store for a while."""
        self.faults[fault]()
        try:
            yield
        finally:
            self.clear()


STORES: dict[str, Callable[[Path], contextlib.AbstractContextManager[StoreUnderTest]]] = {}
"""Every store of the suite, by the name that its cases carry."""


def _store(
    function: Callable[[Path], Iterator[StoreUnderTest]],
) -> Callable[[Path], contextlib.AbstractContextManager[StoreUnderTest]]:
    STORES[function.__name__] = contextlib.contextmanager(function)
    return STORES[function.__name__]


def vector_answers(name: str) -> tuple[KnownAnswer, ...]:
    """What the published Capgo CLI made with the key of tests/vectors/NAME."""
    vector = json.loads((VECTORS / name / "vector.json").read_text())
    signed = SignatureScheme.CAPGO_V2 if vector["format"] == "v2" else SignatureScheme.CAPGO_V3
    return tuple(
        KnownAnswer(scheme, bytes.fromhex(vector[data]), bytes.fromhex(vector[output]))
        for scheme, data, output in (
            (WrapScheme.CAPGO, "session_key_hex", "rsa_output_session_key_hex"),
            (signed, "plain_sha256_hex", "rsa_output_checksum_hex"),
        )
    )


def vector_key(name: str) -> rsa.RSAPrivateKey:
    """The key of tests/vectors/NAME."""
    key = load_pem_private_key((VECTORS / name / "private.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@_store
def pkcs11(folder: Path) -> Iterator[StoreUnderTest]:
    """A SoftHSM token behind the fault shim."""
    token = make_token(folder, "conformance")
    shim = FaultShim.build(folder, token.module_path)
    for name in ("capgo-v2", "capgo-v3"):
        import_rsa_key(token, name, VECTORS / name / "private.pem")
    generate_rsa_key(token, "rsassa")
    generate_rsa_key(token, "large", 3072)
    generate_rsa_key(token, "wrapping", sign=False, decrypt=True)
    public_keys = read_public_keys(token)
    imported = (Protection.SOFTWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE)
    generated = (Protection.SOFTWARE, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE)

    def key(
        name: str,
        can: frozenset[Mechanism],
        schemes: tuple[Scheme, ...],
        custody: tuple[Protection, Origin, Export] = generated,
        known: tuple[KnownAnswer, ...] = (),
    ) -> KeyUnderTest:
        uri = token.uri(name, module_path=shim.path)
        place = (token.label, token.serial, str(shim.path))
        return KeyUnderTest(name, uri, public_keys[name], can, schemes, custody, place, known)

    keys = (
        key("capgo-v2", SIGNING, CAPGO, imported, vector_answers("capgo-v2")),
        key("capgo-v3", SIGNING, CAPGO, imported, vector_answers("capgo-v3")),
        key("rsassa", SIGNING, RSASSA),
        key("large", LARGE, RSASSA),
        key("wrapping", frozenset({Mechanism.OAEP_SHA1}), (WrapScheme.RSAES_OAEP_SHA1,)),
    )
    yield token_store(
        shim,
        keys,
        lambda name: token.uri(name, module_path=shim.path),
        in_this_process=token.in_this_process,
        secrets=(token.pin,),
        places=(token.label, token.serial, str(shim.path)),
    )


def token_store(
    shim: FaultShim, keys: tuple[KeyUnderTest, ...], uri: Callable[[str], str], **more: Any
) -> StoreUnderTest:
    """A store of PKCS#11 behind the fault shim; `uri` makes the URI of a key by its label."""

    def fail(code: int, *functions: str) -> None:
        for function in functions:
            shim.fail(function, code)

    def hang() -> None:
        shim.hang("C_Sign")
        shim.hang("C_Decrypt")

    settings = {"threads": 2, **more.pop("settings", {})}
    return StoreUnderTest(
        scheme="pkcs11",
        keys=keys,
        faults={
            Fault.AWAY: lambda: fail(Ckr.DEVICE_ERROR, "C_Sign", "C_Decrypt", "C_OpenSession", "C_GetTokenInfo"),
            Fault.BUSY: lambda: fail(Ckr.FUNCTION_FAILED, "C_Sign", "C_Decrypt"),
            Fault.CORRUPTED: lambda: shim.corrupt("C_Sign"),
            Fault.REFUSED: lambda: fail(Ckr.KEY_FUNCTION_NOT_PERMITTED, "C_SignInit", "C_DecryptInit"),
            Fault.HANGS: hang,
        },
        clear=shim.clear,
        private_calls=lambda: shim.calls("C_SignInit") + shim.calls("C_DecryptInit"),
        at_once=2,
        absent=uri("nobody"),
        new=uri("new"),
        malformed=("pkcs11:", f"pkcs11:object=a?module-path={shim.path}&pin-value=1234", "pkcs11:colour=red;object=a"),
        refused=Kind.CALLER,
        settings=settings,
        impatient={"open_timeout_s": 0.5},
        **more,
    )


_READ_PUBLIC_KEYS = """
import json, sys, pkcs11
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.util.rsa import encode_rsa_public_key
from cryptography.hazmat.primitives import serialization as s
module, serial = sys.argv[1:]
token = next(pkcs11.lib(module).get_tokens(token_serial=serial.encode()))
with token.open() as session:
    keys = list(session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY}))
    print(json.dumps({k.label: encode_rsa_public_key(k).hex() for k in keys}))
"""


def read_public_keys(token: SoftHsmToken) -> dict[str, rsa.RSAPublicKey]:
    """The public objects of a token by label, read by python-pkcs11 alone in a process of its own."""
    read = subprocess.run(
        [sys.executable, "-c", _READ_PUBLIC_KEYS, str(token.module_path), token.serial],
        env=dict(token.environment),
        check=True,
        capture_output=True,
        text=True,
    )
    return {label: _rsa_public_key(bytes.fromhex(der)) for label, der in json.loads(read.stdout).items()}


def _rsa_public_key(der: bytes) -> rsa.RSAPublicKey:
    key = load_der_public_key(der)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


@_store
def awskms(folder: Path) -> Iterator[StoreUnderTest]:
    """The emulator ministack behind the fault proxy."""
    with ministack.running() as emulator, fault_proxy.running(emulator.endpoint) as proxy:
        faults = _ProxyFaults(proxy)
        kms = emulator.kms()

        def key(
            name: str, spec: str, usage: str, can: frozenset[Mechanism], schemes: tuple[Scheme, ...]
        ) -> KeyUnderTest:
            arn = emulator.create_key(spec, usage)
            return KeyUnderTest(
                name,
                f"awskms:///{arn}?endpoint={proxy.endpoint}",
                _rsa_public_key(kms.get_public_key(KeyId=arn)["PublicKey"]),
                can,
                schemes,
                # The endpoint is this machine's: that it is an HSM's nobody says.
                (Protection.UNKNOWN, Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE),
                (arn, proxy.endpoint),
            )

        @contextlib.contextmanager
        def in_this_process() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                aws_environment.isolate(patch, folder, ministack.ACCOUNT)
                yield

        absent = f"arn:aws:kms:{ministack.REGION}:{ministack.ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
        yield StoreUnderTest(
            scheme="awskms",
            keys=(
                key("rsassa", "RSA_2048", "SIGN_VERIFY", LARGE, RSASSA),
                key("large", "RSA_4096", "SIGN_VERIFY", LARGE, RSASSA),
                key(
                    "wrapping",
                    "RSA_2048",
                    "ENCRYPT_DECRYPT",
                    frozenset({Mechanism.OAEP_SHA256}),
                    (WrapScheme.RSAES_OAEP_SHA256,),
                ),
            ),
            faults=faults.table(),
            clear=faults.clear,
            private_calls=lambda: sum(
                not call.parameters.get("DryRun") for call in (*proxy.calls("Sign"), *proxy.calls("Decrypt"))
            ),
            at_once=8,
            absent=f"awskms:///{absent}?endpoint={proxy.endpoint}",
            malformed=("awskms:", "awskms:///alias/", "awskms:///alias/a?colour=red"),
            refused=Kind.OPERATOR,
            takes_no_key=True,
            settings={"connections": 8, "group_connections": 4},
            impatient={"open_timeout_s": 0.5},
            in_this_process=in_this_process,
            secrets=(aws_environment.SECRET,),
            places=("arn:aws", proxy.endpoint),
        )


class _ProxyFaults:
    """The faults of the proxy, each for as many calls as any case makes."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._hang = fault_proxy.Hang()

    def table(self) -> dict[Fault, Callable[[], None]]:
        private = ("Sign", "Decrypt")
        return {
            Fault.AWAY: lambda: self._queue(Cut(), *private, "DescribeKey", "GetPublicKey"),
            Fault.BUSY: lambda: self._queue(throttled(), *private),
            Fault.CORRUPTED: lambda: self._queue(Rewrite(_other_signature), "Sign"),
            Fault.REFUSED: lambda: self._queue(Answer(400, "AccessDeniedException"), *private),
            Fault.HANGS: lambda: self._queue(self._hang, *private),
        }

    def clear(self) -> None:
        """Forget what is queued, and let go of what hangs."""
        self._proxy.clear()
        self._hang.let_go.set()
        self._hang = fault_proxy.Hang()

    def _queue(self, fault: fault_proxy.Fault, *operations: str) -> None:
        for operation in operations:
            self._proxy.queue(operation, *[fault] * MANY)


def _other_signature(answer: dict[str, str]) -> dict[str, str]:
    """The answer with the first six bits of its base64 changed."""
    signature = answer["Signature"]
    return {**answer, "Signature": ("B" if signature[0] == "A" else "A") + signature[1:]}


@_store
def gcpkms(folder: Path) -> Iterator[StoreUnderTest]:
    """The fake Google Cloud KMS."""
    with FakeKms() as fake:
        faults = _FakeFaults(fake)
        inside = Origin.GENERATED_INSIDE, Export.NEVER_POSSIBLE

        def key(
            key_id: str, algorithm: str, scheme: tuple[Scheme, ...], mechanism: Mechanism, level: str = "SOFTWARE"
        ) -> KeyUnderTest:
            name = fake.add(algorithm, level, key_id=key_id)
            protection = Protection.HARDWARE if level == "HSM" else Protection.SOFTWARE
            return KeyUnderTest(
                key_id,
                f"gcpkms://{name}?endpoint={fake.endpoint}",
                fake.private_key(name).public_key(),
                frozenset({mechanism}),
                scheme,
                (protection, *inside),
                (name, level),
            )

        yield StoreUnderTest(
            scheme="gcpkms",
            keys=(
                _imported_into_google(fake, "capgo-v3"),
                key("pkcs1", "RSA_SIGN_PKCS1_3072_SHA256", RSASSA[:1], Mechanism.PKCS1_V1_5_SHA256),
                key("pss", "RSA_SIGN_PSS_2048_SHA256", RSASSA[1:], Mechanism.PSS_SHA256, "HSM"),
                key(
                    "oaep",
                    "RSA_DECRYPT_OAEP_2048_SHA256",
                    (WrapScheme.RSAES_OAEP_SHA256,),
                    Mechanism.OAEP_SHA256,
                    "HSM",
                ),
                key("oaep-sha1", "RSA_DECRYPT_OAEP_2048_SHA1", (WrapScheme.RSAES_OAEP_SHA1,), Mechanism.OAEP_SHA1),
            ),
            faults=faults.table(),
            clear=faults.clear,
            private_calls=lambda: fake.calls.count("AsymmetricSign") + fake.calls.count("AsymmetricDecrypt"),
            at_once=8,
            absent=f"gcpkms://{google_kms.RING}/cryptoKeys/nobody/cryptoKeyVersions/1?endpoint={fake.endpoint}",
            malformed=("gcpkms:", f"gcpkms://{google_kms.RING}/cryptoKeys/pkcs1?endpoint={fake.endpoint}"),
            refused=Kind.OPERATOR,
            settings={"concurrency": 8},
            impatient={"open_timeout_s": 0.5},
            places=(google_kms.RING, fake.endpoint),
        )


def _imported_into_google(fake: FakeKms, vector: str) -> KeyUnderTest:
    """A raw key whose material came through an import job, as Google tells of it."""
    private_key = vector_key(vector)
    name = fake.add("RSA_SIGN_RAW_PKCS1_2048", "HSM", key_id=vector, private_key=private_key)
    version = fake.version(name)
    version.import_job = f"{google_kms.RING}/importJobs/conformance"
    version.import_time, version.generate_time = version.generate_time, None
    return KeyUnderTest(
        vector,
        f"gcpkms://{name}?endpoint={fake.endpoint}",
        private_key.public_key(),
        frozenset({Mechanism.TYPE1}),
        CAPGO,
        (Protection.HARDWARE, Origin.IMPORTED, Export.POSSIBLE_ONCE),
        (name, version.import_job),
        vector_answers(vector),
    )


class _FakeFaults:
    """The faults of the fake, each for as many calls as any case makes."""

    def __init__(self, fake: FakeKms) -> None:
        self._fake = fake
        self._hold = Hold()

    def table(self) -> dict[Fault, Callable[[], None]]:
        private = ("AsymmetricSign", "AsymmetricDecrypt")
        away, busy, denied = (
            Refuse(code)
            for code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.PERMISSION_DENIED,
            )
        )
        return {
            Fault.AWAY: lambda: self._queue(away, *private, "GetCryptoKeyVersion", "GetPublicKey"),
            Fault.BUSY: lambda: self._queue(busy, *private),
            Fault.CORRUPTED: lambda: self._queue(corrupted_signature(checksum_fits=True), "AsymmetricSign"),
            Fault.REFUSED: lambda: self._queue(denied, *private),
            Fault.HANGS: lambda: self._queue(self._hold, *private),
        }

    def clear(self) -> None:
        """Forget what is queued, and let go of what hangs."""
        self._fake.forget_faults()
        self._hold.gate.set()
        self._hold = Hold()

    def _queue(self, fault: google_kms.Fault, *methods: str) -> None:
        for method in methods:
            self._fake.queue(method, fault, times=MANY)
