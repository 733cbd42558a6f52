"""The AWS KMS key store: opens keys by their URI, signs digests, and unwraps session keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from privyseal_backends.aws_kms.address import Connection, KeyAddress, parse_uri
from privyseal_backends.aws_kms.answers import answer_bytes, check_answer
from privyseal_backends.aws_kms.capability import MODULUS_BITS, capability
from privyseal_backends.aws_kms.credentials import silence_secrets
from privyseal_backends.aws_kms.custody import KeyFacts, custody
from privyseal_backends.aws_kms.executor import Executor
from privyseal_backends.aws_kms.key import AwsKmsDecryptionKey, AwsKmsKey
from privyseal_backends.aws_kms.probe import probe
from privyseal_backends.aws_kms.settings import Settings, parse_settings
from privyseal_backends.interface import (
    DeadlineError,
    IntegrityError,
    KeyDescription,
    Mechanism,
    OperatorError,
    PublicKey,
    UnavailableError,
)
from privyseal_backends.quota import Quota

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from privyseal_backends.aws_kms.credentials import Clients


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
    `[stores.awskms]` for what a URI leaves out, beside those of `aws_kms.settings.Settings`. An alias is
    resolved when the key is opened, and the key's ARN is what every request names from then on. An endpoint is
    https, plain http on loopback only.

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
        self._lanes: dict[Connection, Executor] = {}
        self._buckets: dict[tuple[str, str], Quota] = {}
        self._processes = 1
        self._closed = False

    async def open_key(self, uri: str, fingerprint: str | None = None) -> AwsKmsKey:
        """See `privyseal_backends.interface.KeyStore.open_key`. The answer is a `Decrypter` for a decryption key."""
        address = parse_uri(uri, self._settings.defaults)
        if self._closed:
            raise UnavailableError("AWS KMS", "the key store was closed", "open it again")
        lane = self._lanes.get(address.connection)
        if lane is None:
            lane = self._lanes[address.connection] = Executor(address.connection, self._settings, self._bucket_of)
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

    async def _open(self, lane: Executor, address: KeyAddress, fingerprint: str | None, deadline_s: float) -> AwsKmsKey:
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
        public_key = PublicKey.from_spki_der(answer_bytes(answer, "PublicKey"))
    except ValueError:
        raise IntegrityError("answer", f"what AWS KMS gave as the public key of {facts.arn} is not one") from None
    if public_key.modulus_bits != MODULUS_BITS[facts.key_spec]:
        raise IntegrityError("answer", f"the public key of {facts.arn} is not of its spec {facts.key_spec}")
    return public_key


def open_store(settings: Mapping[str, object]) -> AwsKmsStore:
    """Open the store: the backend's entry point, see `privyseal_backends.interface.OpenStore`.

    It raises the log level of boto3 and botocore to WARNING, where it is lower: their debug records hold session
    tokens and recovered session keys.
    """
    silence_secrets()
    return AwsKmsStore(parse_settings(settings))
