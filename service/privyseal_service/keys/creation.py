"""The making and importing of keys: what `privyseal-server key` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from privyseal_backends.interface import (
    PURPOSES,
    CallerError,
    Export,
    Key,
    KeyCreator,
    KeyDescription,
    Origin,
    PublicKey,
    Purpose,
)
from privyseal_backends.registry import backend, store_uris, uri_scheme
from privyseal_backends.wrappers import capability
from privyseal_service.domain.operations import MECHANISMS
from privyseal_service.keys.enrollment import check_enrollment, worded
from privyseal_service.keys.stores import Stores

if TYPE_CHECKING:
    from pydantic import JsonValue

    from privyseal_backends.interface import OpenStore
    from privyseal_service.config.keys import KeyConfig
    from privyseal_service.config.root import Config

PURPOSE_NAMES: Mapping[str, Purpose] = {
    "capgo": Purpose.TYPE1,
    "signatures": Purpose.SIGNATURES,
    "decryption": Purpose.DECRYPTION,
}
"""The purposes by their names on the command line."""

_MOST_PEM_BYTES = 64 * 1024
_PRIVATE_KEYS = ("-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----")
_ENCRYPTED = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED")


class KeyFileError(Exception):
    """No key can be imported from a file. The text is a sentence without any content of the file."""


class TargetError(Exception):
    """The key is one that the configuration does not allow. The text is a sentence."""


@dataclass(frozen=True)
class Target:
    """Where a key is stored, and its purpose. `config` is its entry in the configuration, if it has one."""

    name: str
    uri: str
    purpose: Purpose
    config: KeyConfig | None = None
    stores: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)


def target_by_name(config: Config, name: str, purpose: Purpose | None) -> Target:
    """Return the key `name` of the configuration; its purpose follows from its schemes. Raises ConfigError and
    TargetError."""
    key = config.key(name)
    needed = PURPOSES[MECHANISMS[key.schemes[0]]]
    if purpose not in (None, needed):
        enrolled = ", ".join(scheme.value for scheme in key.schemes)
        raise TargetError(f"key {name!r} is enrolled for {enrolled}, which needs a key for {needed.value}")
    return Target(name, key.uri, needed, key, config.stores)


def target_by_uri(uri: str, purpose: Purpose | None) -> Target:
    """Return the key that a URI names; relative paths in it are relative to the working folder."""
    return Target("", store_uris(uri).resolve_paths(uri, Path.cwd()), purpose or Purpose.TYPE1)


def check_bits(purpose: Purpose, bits: int) -> None:
    """Raise TargetError for a size that the purpose does not allow."""
    if purpose is Purpose.TYPE1 and bits != 2048:
        raise TargetError(f"a key for Capgo must have 2048 bits, not {bits}, since devices read exactly 256 bytes")
    if bits not in {2048, 3072, 4096}:
        raise TargetError(f"a key must have 2048, 3072 or 4096 bits, not {bits}")


async def create(target: Target, bits: int, backends: Callable[[str], OpenStore] = backend) -> KeyDescription:
    """Make the key inside its store. Raises TargetError before it makes anything, and BackendError."""
    check_bits(target.purpose, bits)
    if target.config is not None and target.config.fingerprint is not None:
        raise TargetError(
            f"the configuration pins the fingerprint of key {target.name!r}; remove it, since a new key has another"
        )
    return await _store(target, backends, lambda store: store.create_key(target.uri, target.purpose, bits))


async def import_key(
    target: Target, private_key: RSAPrivateKey, backends: Callable[[str], OpenStore] = backend
) -> KeyDescription:
    """Import an existing key into a store. Raises TargetError before it stores anything, and BackendError."""
    check_bits(target.purpose, private_key.key_size)
    config = target.config
    if config is not None:
        found = PublicKey(private_key.public_key()).fingerprint
        if config.fingerprint not in (None, found):
            raise TargetError(
                f"the configuration pins a fingerprint for key {target.name!r} that is not the file's, {found}"
            )
        if config.custody.origin > Origin.IMPORTED or config.custody.export > Export.POSSIBLE_ONCE:
            raise TargetError(
                f"the configuration demands custody of key {target.name!r} that an imported key cannot have; write "
                'custody = { origin = "imported", export = "possible-once" }'
            )
    der = private_key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return await _store(target, backends, lambda store: store.import_key(target.uri, der, target.purpose))


async def _store(
    target: Target, backends: Callable[[str], OpenStore], make: Callable[[KeyCreator], Awaitable[Key]]
) -> KeyDescription:
    stores = Stores(target.stores, backends)
    try:
        store = stores.store(target.uri)
        creator = capability(store, KeyCreator)
        if creator is None:
            raise CallerError(
                "backend",
                f"{uri_scheme(target.uri)} keys cannot be made or imported by this command",
                "use the provider's own tools, then name the key in the configuration",
            )
        return (await make(creator)).description
    finally:
        await stores.close()


def read_private_key(file: Path) -> RSAPrivateKey:
    """Return the only RSA key in a PEM file: PKCS#1 or PKCS#8, not encrypted. Raises KeyFileError."""
    try:
        with file.open("rb") as opened:
            pem = opened.read(_MOST_PEM_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileError(f"there is no file {file}") from None
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from None
    text = pem.decode("ascii", "replace")
    if any(mark in text for mark in _ENCRYPTED):
        raise KeyFileError(
            f"{file} is encrypted, and this command reads no password: decrypt it (openssl rsa -in {file} -out …) to "
            "a file system in memory, import that file, and destroy it"
        )
    found = sum(text.count(mark) for mark in _PRIVATE_KEYS)
    if len(pem) > _MOST_PEM_BYTES or found != 1:
        raise KeyFileError(
            f"{file} does not hold one private key as PEM: PKCS#1 (BEGIN RSA PRIVATE KEY) or PKCS#8 (BEGIN PRIVATE KEY)"
        )
    try:
        key = load_pem_private_key(pem, None)
    except UnsupportedAlgorithm:
        key = None
    except (ValueError, TypeError):
        raise KeyFileError(f"{file} is damaged: its private key cannot be read") from None
    if not isinstance(key, RSAPrivateKey):
        raise KeyFileError(f"{file} holds a key that is not RSA")
    return key


def report(done: str, target: Target, description: KeyDescription) -> str:
    """Return a report on the new key, as text."""
    public_key, custody = description.public_key, description.custody
    name = f" {target.name!r}" if target.name else ""
    found = f"{worded(custody.protection)} protection, {worded(custody.origin)}, export {worded(custody.export)}"
    reasons = (*custody.protection_reasons, *custody.origin_reasons, *custody.export_reasons)
    lines = [
        f"{done} key{name}: RSA-{public_key.modulus_bits} for {target.purpose.value}",
        f"  fingerprint   {public_key.fingerprint}",
        f"  Capgo key_id  {public_key.capgo_key_id}",
        f"  key version   {description.key_version}",
        f"  custody       {found}",
    ]
    return "\n".join([*lines, *(f"    {reason}" for reason in reasons)])


_REMAINING_STEPS = """\
{file} still holds the private key. What remains to be done:
  1. Seal a bundle through the service and open it with the public key printed here, which installed apps embed and
     trust.
  2. Decide on recovery: the key store does not return the private key. Back up the store, or keep one copy of the
     file, encrypted and offline.
  3. Destroy {file} and every other copy: build machines, CI secrets, repositories and their history, backups, chats.
  4. A copy that somebody made before can always sign. Only a new key, in an update of the app itself, ends that."""


def remaining_steps(file: Path) -> str:
    """Return what remains to be done after an import, as text."""
    return _REMAINING_STEPS.format(file=file)


def check_configured(target: Target, description: KeyDescription) -> None:
    """Raise MisfitError when the new key does not fit its entry in the configuration."""
    if target.config is not None:
        check_enrollment(target.config, description)
