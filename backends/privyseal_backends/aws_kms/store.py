"""The AWS KMS key store: opens keys by their URI, signs digests, and unwraps session keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from privyseal_backends.aws_kms.address import Connection, KeyAddress, Settings, parse_uri
from privyseal_backends.aws_kms.capability import ALGORITHMS, MODULUS_BITS, capability
from privyseal_backends.aws_kms.custody import KeyFacts, custody
from privyseal_backends.aws_kms.errors import BAD_CIPHERTEXT
from privyseal_backends.aws_kms.lane import Lane, Timed
from privyseal_backends.aws_kms.probe import probe
from privyseal_backends.interface import (
    BackendError,
    CallerError,
    DeadlineError,
    IntegrityError,
    KeyDescription,
    Mechanism,
    OperatorError,
    Plaintext,
    PublicKey,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from privyseal_backends.quota import Quota
from privyseal_backends.verification import verify

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from privyseal_backends.aws_kms.session import Clients


def check_answer(answer: Mapping[str, object], expected: Mapping[str, str]) -> None:
    """Raise `IntegrityError` unless each field of the answer says what was expected, the key's ARN above all.

    botocore takes a body that was cut, or that a portal in between made, for an answer without any field: that is no
    answer, and raises `UnavailableError`.
    """
    if not set(answer) - {"ResponseMetadata"}:
        raise UnavailableError("network", "an answer was cut on the way, or is not one of AWS KMS")
    for name, value in expected.items():
        if answer.get(name) != value:
            raise IntegrityError(
                "answer",
                f"an answer of AWS KMS has another {name} than the one that was asked for",
                "it was dropped; check what stands between the service and AWS KMS",
            )


def request_id(answer: Mapping[str, object]) -> str:
    """AWS's own name for the call that this answers; empty where it gave none."""
    metadata = answer.get("ResponseMetadata")
    found = metadata.get("RequestId") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, str) else ""


def _bytes(answer: Mapping[str, object], name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, bytes):
        raise IntegrityError("answer", f"an answer of AWS KMS has no {name}", "it was dropped; ask again")
    return value


class AwsKmsKey:
    """An open signing key, pinned by its ARN: an alias that is moved later does not move it."""

    def __init__(self, lane: Lane, description: KeyDescription, group_connections: int) -> None:
        self._lane = lane
        self._description = description
        self._group_connections = group_connections

    @property
    def description(self) -> KeyDescription:
        """What the key is; its `key_version` is the key ARN."""
        return self._description

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """See `privyseal_backends.interface.Key.sign`. The inputs go out side by side, a few at a time."""
        results: dict[int, SigningResult] = {}
        waiting = iter(enumerate(inputs))

        async def take_turns() -> None:
            for index, signing_input in waiting:
                results[index] = await self._sign_one(signing_input, deadline_s)

        try:
            with self._lane.in_flight():
                turns = min(len(inputs), self._group_connections)
                await asyncio.gather(*(take_turns() for _ in range(turns)))
        except UnavailableError as closed:
            return [closed] * len(inputs)
        return [results[index] for index in range(len(inputs))]

    async def _sign_one(self, signing_input: SigningInput, deadline_s: float) -> SigningResult:
        try:
            self._check_mechanism(signing_input.mechanism)
            signed = await self._lane.call(
                lambda client: self._sign(client, signing_input),
                self._description.key_version,
                deadline_s,
                metered=True,
            )
        except BackendError as error:
            return error
        value, request = signed.value
        return Signature(value, request, signed.queued_s, signed.store_s)

    def _check_mechanism(self, mechanism: Mechanism) -> None:
        if mechanism not in self._description.mechanisms:
            raise CallerError(
                "mechanism", f"the key does not do {mechanism.value}", self._description.refusals[mechanism]
            )

    def _sign(self, client: KMSClient, signing_input: SigningInput) -> tuple[bytes, str]:
        arn, algorithm = self._description.key_version, ALGORITHMS[signing_input.mechanism]
        answer = client.sign(
            KeyId=arn,
            Message=signing_input.data,
            MessageType="DIGEST",
            SigningAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
        )
        check_answer(answer, {"KeyId": arn, "SigningAlgorithm": algorithm})
        signature = _bytes(answer, "Signature")
        verify(self._description.public_key, signing_input, signature)
        return signature, request_id(answer)


class AwsKmsDecryptionKey(AwsKmsKey):
    """An open decryption key, pinned by its ARN. It signs nothing: every input of `sign` gives `CallerError`."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """See `privyseal_backends.interface.Decrypter.decrypt`."""
        with self._lane.in_flight():
            self._check_mechanism(mechanism)
            if len(ciphertext) != self._description.public_key.modulus_bytes:
                raise CallerError(*BAD_CIPHERTEXT)
            opened: Timed[tuple[bytes, str]] = await self._lane.call(
                lambda client: self._decrypt(client, ciphertext, mechanism),
                self._description.key_version,
                deadline_s,
                metered=True,
            )
        value, request = opened.value
        return Plaintext(value, request, opened.queued_s, opened.store_s)

    def _decrypt(self, client: KMSClient, ciphertext: bytes, mechanism: Mechanism) -> tuple[bytes, str]:
        arn, algorithm = self._description.key_version, ALGORITHMS[mechanism]
        answer = client.decrypt(
            KeyId=arn,
            CiphertextBlob=ciphertext,
            EncryptionAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
        )
        check_answer(answer, {"KeyId": arn, "EncryptionAlgorithm": algorithm})
        return _bytes(answer, "Plaintext"), request_id(answer)


@dataclass(frozen=True)
class _Found:
    """What AWS KMS told of a key when it was opened."""

    arn: str
    key_spec: str
    key_usage: str
    public_key: PublicKey
    refusals: Mapping[Mechanism, str]
    facts: KeyFacts

    @property
    def mechanisms(self) -> frozenset[Mechanism]:
        """What the key can do, permission aside."""
        return frozenset(mechanism for mechanism, refusal in self.refusals.items() if not refusal)


class AwsKmsStore:
    """Keys in AWS KMS, over boto3.

    URI: `awskms:///KEY?region=…&endpoint=…&sts_endpoint=…&profile=…&role=…&fips=true|false`, every field optional.
    KEY is a key ARN, an alias ARN, `alias/NAME` or a key id; an ARN brings its Region. The same names are settings in
    `[stores.awskms]` for what a URI leaves out, beside those of `privyseal_backends.aws_kms.address.Settings`. An alias
    is resolved when the key is opened, and the key's ARN is what every request names from then on. An endpoint is
    https, plain http on loopback alone.

    Credentials: the AWS SDK's ordinary chain (variables, profile, container or instance role), or those of `profile`;
    with `role` they only assume that role, and the role's credentials are renewed before they expire. A profile that
    asks for a second factor cannot serve. No credential is ever logged, and none is in an error.

    Permissions, on the key's ARN: `kms:DescribeKey` and `kms:GetPublicKey`; `kms:Sign` for a signing key (a policy may
    demand `kms:MessageType` DIGEST and name the `kms:SigningAlgorithm`); `kms:Decrypt` for a decryption key. With
    `role`, `sts:AssumeRole` on the role. A condition on `kms:RequestAlias` refuses every signature, as requests name
    the ARN. With `quota_per_s` the caller's account is asked of STS, where the credentials do not tell it; that needs
    no permission. When a key is opened, each thing that it can do is probed with `DryRun`: AWS KMS then checks
    permission and state, and signs nothing. `probe = false` leaves that out.

    Errors: `CallerError` for a malformed URI, a mechanism that the key does not have, a ciphertext that does not open;
    `OperatorError` for missing or refused credentials and permissions, a key that does not exist, is disabled, pending
    or of no use here, a Region or profile that is not configured; `BusyError` for throttling and for the configured
    quota, when the deadline cannot hold another attempt; `UnavailableError` for the network, 5xx,
    KMSInternalException, DependencyTimeoutException and KeyUnavailableException; `IntegrityError` for an answer about
    another key or algorithm, a signature that does not verify, another key than the pinned one; `DeadlineError`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes: dict[Connection, Lane] = {}
        self._buckets: dict[tuple[str, str], Quota] = {}
        self._processes = 1
        self._closed = False

    async def open_key(self, uri: str, fingerprint: str | None = None) -> AwsKmsKey:
        """See `privyseal_backends.interface.KeyStore.open_key`. The answer is a `Decrypter` for a decryption key."""
        address = parse_uri(uri, self._settings)
        if self._closed:
            raise UnavailableError("AWS KMS", "the key store was closed", "open it again")
        lane = self._lanes.get(address.connection)
        if lane is None:
            lane = self._lanes[address.connection] = Lane(address.connection, self._settings, self._bucket_of)
        deadline_s = time.monotonic() + self._settings.open_timeout_s
        with lane.in_flight():
            try:
                return await self._open(lane, address, fingerprint, deadline_s)
            except DeadlineError:
                raise UnavailableError(
                    "network",
                    "AWS KMS did not answer in time while the key was opened",
                    "check the way to its endpoint",
                ) from None

    def _bucket_of(self, account: str, region: str) -> Quota | None:
        """The bucket that all keys share whose calls AWS counts together."""
        if not self._settings.quota_per_s:
            return None
        if (account, region) not in self._buckets:
            bucket = self._buckets[account, region] = Quota(self._settings.quota_per_s)
            bucket.share(self._processes)
        return self._buckets[account, region]

    def share_quota(self, processes: int) -> None:
        """See `privyseal_backends.interface.Metered`."""
        self._processes = processes
        for bucket in self._buckets.values():
            bucket.share(processes)

    async def _open(self, lane: Lane, address: KeyAddress, fingerprint: str | None, deadline_s: float) -> AwsKmsKey:
        clients = await lane.start(deadline_s)
        found = (await lane.call(_find(address, clients), address.key_id, deadline_s)).value
        if fingerprint is not None and found.public_key.fingerprint != fingerprint:
            raise IntegrityError(
                "key",
                f"the key {found.arn} has the fingerprint {found.public_key.fingerprint}, not the one that is pinned",
                "check that the URI names the right key; if it does, pin the fingerprint that is written here",
            )
        refusals = dict(found.refusals)
        if self._settings.probe:
            refusals |= await probe(lane, found.arn, found.public_key, found.mechanisms, deadline_s)
        mechanisms = frozenset(mechanism for mechanism, refusal in refusals.items() if not refusal)
        description = KeyDescription(
            key_version=found.arn,
            public_key=found.public_key,
            mechanisms=mechanisms,
            refusals=MappingProxyType({mechanism: refusal for mechanism, refusal in refusals.items() if refusal}),
            custody=custody(found.facts),
        )
        kind = AwsKmsDecryptionKey if found.key_usage == "ENCRYPT_DECRYPT" else AwsKmsKey
        return kind(lane, description, self._settings.group_connections)

    async def close(self) -> None:
        """See `privyseal_backends.interface.KeyStore.close`. Threads whose callers gave up are waited for as long as a
        socket may wait."""
        self._closed = True
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))


def _find(address: KeyAddress, clients: Clients) -> Callable[[KMSClient], _Found]:
    def find(client: KMSClient) -> _Found:
        described = client.describe_key(KeyId=address.key_id)
        check_answer(described, {})
        metadata = described["KeyMetadata"]
        facts = KeyFacts.of(metadata, clients.endpoint)
        if not address.names(facts.arn, clients.region):
            raise IntegrityError("answer", "AWS KMS described another key than the one that was asked for")
        _check_state(facts)
        listed = [*metadata.get("SigningAlgorithms", []), *metadata.get("EncryptionAlgorithms", [])]
        refusals = capability(facts.key_spec, facts.key_usage, listed)
        answer = client.get_public_key(KeyId=facts.arn)
        check_answer(answer, {"KeyId": facts.arn, "KeySpec": facts.key_spec, "KeyUsage": facts.key_usage})
        return _Found(facts.arn, facts.key_spec, facts.key_usage, _public_key(answer, facts), refusals, facts)

    return find


def _check_state(facts: KeyFacts) -> None:
    if facts.key_state != "Enabled":
        remedy = _STATES.get(facts.key_state, "wait until it is Enabled, or name another key")
        state = facts.key_state or "not told"
        raise OperatorError("key", f"the state of the AWS KMS key {facts.arn} is {state}, not Enabled", remedy)


_STATES = {
    "Disabled": "enable it with aws kms enable-key, or name another key",
    "PendingDeletion": "cancel its deletion with aws kms cancel-key-deletion and enable it, or name another key",
    "PendingImport": "import its key material, or name another key",
    "PendingReplicaDeletion": "cancel its deletion with aws kms cancel-key-deletion, or name another key",
    "Unavailable": "connect its custom key store, or name another key",
}


def _public_key(answer: Mapping[str, object], facts: KeyFacts) -> PublicKey:
    try:
        public_key = PublicKey.from_spki_der(_bytes(answer, "PublicKey"))
    except ValueError:
        raise IntegrityError("answer", f"what AWS KMS gave as the public key of {facts.arn} is not one") from None
    if public_key.modulus_bits != MODULUS_BITS[facts.key_spec]:
        raise IntegrityError("answer", f"the public key of {facts.arn} is not of its spec {facts.key_spec}")
    return public_key
