"""The key store: opens key versions of Google Cloud KMS and learns what they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import Certificate

from privyseal_backends.google_kms import answers, attestation
from privyseal_backends.google_kms.address import Endpoint, KeyAddress, parse_uri
from privyseal_backends.google_kms.attestation_chain import load_roots
from privyseal_backends.google_kms.capability import Capability, capability
from privyseal_backends.google_kms.concurrency_limit import deadline_passed
from privyseal_backends.google_kms.credentials import Connection, connect
from privyseal_backends.google_kms.custody import HSM_LEVELS, assess
from privyseal_backends.google_kms.errors import Verb, integrity
from privyseal_backends.google_kms.facts import KeyFacts
from privyseal_backends.google_kms.key import GoogleKmsDecryptionKey, GoogleKmsKey, store_closed
from privyseal_backends.google_kms.settings import Settings, parse_settings
from privyseal_backends.interface import (
    PURPOSES,
    Custody,
    DeadlineError,
    IntegrityError,
    KeyDescription,
    OperatorError,
    PublicKey,
    Purpose,
    UnavailableError,
)
from privyseal_backends.quota import Quota

_Place = tuple[Endpoint, str | None]
_Value = TypeVar("_Value")

_STATE_REMEDIES: Mapping[str, str] = {
    "DISABLED": "enable it (gcloud kms keys versions enable)",
    "DESTROY_SCHEDULED": "restore it (gcloud kms keys versions restore) and enable it, or name another version",
    "DESTROYED": "name another version; this one's key is gone",
    "IMPORT_FAILED": "import the key again as a new version, and name that",
    "GENERATION_FAILED": "make a new version, and name that",
}


def _check_state(facts: KeyFacts) -> None:
    if facts.state == "ENABLED":
        return
    if facts.state in ("PENDING_GENERATION", "PENDING_IMPORT"):
        raise UnavailableError(
            "key", f"the key version is not ready ({facts.state})", "it becomes ENABLED by itself; try again later"
        )
    why = f": {' '.join(facts.failure_reason.split())[:200]}" if facts.failure_reason else ""
    raise OperatorError(
        "key", f"the key version is {facts.state}{why}", _STATE_REMEDIES.get(facts.state, "name another version")
    )


def _read_public_key(pem: str, facts: KeyFacts, can: Capability) -> PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise integrity("the public key cannot be read") from None
    if not isinstance(key, RSAPublicKey) or key.key_size != can.bits:
        raise integrity(f"the public key is not of {facts.algorithm}")
    return PublicKey(key)


def _check_algorithm(facts: KeyFacts, can: Capability) -> None:
    if can.bits is None:
        raise OperatorError(
            "algorithm",
            f"the key version is {facts.algorithm}, which no scheme uses",
            "use a key version of an RSA_SIGN_* or RSA_DECRYPT_OAEP_* algorithm",
        )


def _check_fingerprint(public_key: PublicKey, fingerprint: str | None) -> None:
    if fingerprint is not None and public_key.fingerprint != fingerprint:
        raise IntegrityError(
            "fingerprint",
            f"the key version's public key has the fingerprint {public_key.fingerprint}, not the pinned one",
            "correct the URI or the pinned fingerprint",
        )


def _assess(facts: KeyFacts, public_key: PublicKey, roots_file: str | None) -> Custody:
    """Blocking: reads the roots and checks some signatures."""
    roots: tuple[Certificate, ...] = ()
    if roots_file and facts.protection_level in HSM_LEVELS:
        try:
            roots = load_roots(Path(roots_file).read_bytes())
        except (OSError, ValueError):
            raise OperatorError(
                "settings",
                f"the file {roots_file!r} of attestation_roots has no readable certificates",
                "set it to a PEM file with the HSM manufacturer's and Google's root certificates",
            ) from None
    report = attestation.check(facts, public_key, roots, datetime.now(UTC))
    return assess(facts, report, roots_configured=roots_file is not None)


class GoogleKmsStore:
    """Key versions in Google Cloud KMS.

    **URI.** `gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N`, always with the version.
    Optional query: `credentials=file:PATH`, `endpoint=https://HOST[:PORT]`. `parse_settings` lists the settings.

    **Credentials.** A JSON file (`credentials_file`, or the URI's), else Google's application default credentials:
    the variable GOOGLE_APPLICATION_CREDENTIALS, gcloud's own, or the machine's service account. Only the scope
    `cloudkms` is asked for. They are never sent to an `http://` endpoint, which must be on loopback.

    **Roles**, granted on the key, only to the service's account:
    - `roles/cloudkms.viewer` (state, algorithm, custody) and `roles/cloudkms.publicKeyViewer`, for every key;
    - `roles/cloudkms.signer` for a key that signs; for a raw one (Capgo) `roles/cloudkms.expertRawPKCS1` as well;
    - `roles/cloudkms.decrypter` for a key that decrypts.

    **Algorithms.** RSA_SIGN_RAW_PKCS1_2048 for Capgo; RSA_SIGN_PKCS1_*_SHA256 and RSA_SIGN_PSS_*_SHA256 for the RSASSA
    schemes; RSA_DECRYPT_OAEP_*_SHA256 and *_SHA1 for unwrapping. A key version has one, so it serves one scheme.

    **Errors.** `CallerError`: a malformed URI, an input that the key cannot take. `OperatorError`: no credentials, a
    missing role (the sentence names it), no such key, a version that is not ENABLED. `BusyError`: the project's quota,
    or the configured one. `UnavailableError`: Google does not answer, or the version is not generated yet.
    `IntegrityError`: a checksum, name, protection level or signature that was still wrong after three more tries, or
    another fingerprint than the pinned one. `DeadlineError`: out of time. Google's API gives no request id, so
    `request_id` stays empty.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: dict[_Place, asyncio.Task[Connection]] = {}
        self._buckets: list[Quota] = []
        self._processes = 1
        self._uses = 0
        self._idle: asyncio.Event | None = None
        self._closed = False

    def begin(self) -> None:
        """A key is about to be used. Raises `UnavailableError` once the store is closed."""
        if self._closed:
            raise store_closed()
        self._uses += 1

    def end(self) -> None:
        """The use is over."""
        self._uses -= 1
        if self._uses == 0 and self._idle is not None:
            self._idle.set()

    async def open_key(self, uri: str, fingerprint: str | None = None) -> GoogleKmsKey:
        """Find the key version and learn what it is; see `KeyStore`. Takes `open_timeout_s` at the longest."""
        address = parse_uri(uri)
        self.begin()
        try:
            return await self._open(address, fingerprint, time.monotonic() + self._settings.open_timeout_s)
        except DeadlineError:
            # Opening has no caller's deadline: running out of our own time means that Google is away.
            raise UnavailableError("network", "Cloud KMS did not answer in time", "check the network to it") from None
        finally:
            self.end()

    async def _open(self, address: KeyAddress, fingerprint: str | None, deadline_s: float) -> GoogleKmsKey:
        connection = await self._connection(address, deadline_s)
        client, caller = connection.client, connection.caller
        version = await caller.call(
            Verb.GET_VERSION,
            lambda timeout_s: client.get_crypto_key_version(name=address.name, retry=None, timeout=timeout_s),
            answers.version_facts(address.name),
            deadline_s,
        )
        facts = version.value
        _check_state(facts)
        can = capability(facts.algorithm, facts.protection_level)
        _check_algorithm(facts, can)
        pem = await caller.call(
            Verb.GET_PUBLIC_KEY,
            lambda timeout_s: client.get_public_key(name=address.name, retry=None, timeout=timeout_s),
            answers.public_pem(facts),
            deadline_s,
        )
        public_key = _read_public_key(pem.value, facts, can)
        _check_fingerprint(public_key, fingerprint)
        custody = await asyncio.to_thread(_assess, facts, public_key, self._settings.attestation_roots)
        description = KeyDescription(facts.name, public_key, can.mechanisms, can.refusals, custody)
        decrypts = any(PURPOSES[mechanism] is Purpose.DECRYPTION for mechanism in can.mechanisms)
        kind = GoogleKmsDecryptionKey if decrypts else GoogleKmsKey
        return kind(connection, self, facts, description, self._settings.concurrency)

    async def _connection(self, address: KeyAddress, deadline_s: float) -> Connection:
        """The connection for an endpoint and credentials, made once, by whoever comes first."""
        place = (
            address.endpoint or self._settings.endpoint,
            address.credentials_file or self._settings.credentials_file,
        )
        making = self._connections.get(place)
        if making is None or (making.done() and (making.cancelled() or making.exception() is not None)):
            settings = self._settings
            bucket = self._new_bucket()
            making = asyncio.ensure_future(connect(*place, settings.concurrency, settings.attempt_timeout_s, bucket))
            self._connections[place] = making
        done, _ = await asyncio.wait({making}, timeout=max(0.0, deadline_s - time.monotonic()))
        if not done:
            raise deadline_passed()
        return making.result()

    def _new_bucket(self) -> Quota | None:
        """For a new connection: Google counts what a project's credentials ask for."""
        if not self._settings.quota_per_s:
            return None
        bucket = Quota(self._settings.quota_per_s)
        bucket.share(self._processes)
        self._buckets.append(bucket)
        return bucket

    def share_quota(self, processes: int) -> None:
        """See `privyseal_backends.interface.Metered`."""
        self._processes = processes
        for bucket in self._buckets:
            bucket.share(processes)

    async def close(self) -> None:
        """Let calls in flight finish, each within its own deadline; then close every connection."""
        self._closed = True
        if self._uses:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()
        connections, self._connections = self._connections, {}
        for making in connections.values():
            making.cancel()
        for made in await asyncio.gather(*connections.values(), return_exceptions=True):
            if isinstance(made, Connection):
                await made.close()


def open_store(settings: Mapping[str, object]) -> GoogleKmsStore:
    """The entry point. Raises `OperatorError` for an unknown or unfit setting (`parse_settings`); does no I/O."""
    return GoogleKmsStore(parse_settings(settings))
