"""Signatures that were made before, so that a file that did not change costs no operation in the next release.

Kept by key (its fingerprint), scheme and SHA-256. Capgo's signatures are deterministic and go into every update, so
nothing here is secret; and since each is verified against the public key before it is used, nothing here is trusted
either: whoever can write to the folder can make it forget, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal._files import AtomicOutput, open_input, reading, write_all
from privyseal.errors import ConfigurationError
from privyseal.model import SignatureScheme
from privyseal.release.staging import writing

MOST_ENTRIES = 50_000
"""Of a file of the cache, 14 MB; what was used longest ago goes first."""

_MAGIC = b"privyseal signatures 1\n"
_ENTRY_BYTES = capgo.CHECKSUM_BYTES + capgo.MODULUS_BYTES


class SignatureCache:
    """The signatures of one key and scheme, in a file of their own in `folder`, read at once.

    A file that is damaged, or of another version, is as good as none. Raises FileUnusableError and WriteError.
    """

    def __init__(self, folder: Path, public_key: RSAPublicKey, scheme: SignatureScheme) -> None:
        if scheme not in {SignatureScheme.CAPGO_V2, SignatureScheme.CAPGO_V3}:
            raise ValueError(f"signatures of {scheme.value} are not kept")
        self._public_key = public_key
        self._scheme = scheme
        self._path = folder / f"{capgo.fingerprint(public_key)}.{scheme.value}"
        self._entries = _read(self._path)

    def find(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """The signatures that are known of these SHA-256 digests, each verified."""
        return {digest: self._entries[digest] for digest in digests if self._holds(digest)}

    def keep(self, signatures: Mapping[bytes, bytes]) -> None:
        """Write the file anew, whole or not at all: these signatures, verified, before those that were there.

        Of two that write at once the later wins, and the other's signatures are made again some day.
        """
        entries = {
            **signatures,
            **{digest: known for digest, known in self._entries.items() if digest not in signatures},
        }
        with AtomicOutput(self._path) as output, output.writing():
            write_all(output.file, _MAGIC + b"".join(d + s for d, s in list(entries.items())[:MOST_ENTRIES]))
            output.publish()
        self._entries = entries

    def _holds(self, digest: bytes) -> bool:
        signature = self._entries.get(digest)
        return signature is not None and capgo.recover(self._public_key, signature) == capgo.checksum_block(
            self._scheme, digest
        )


def prepare(folder: Path) -> None:
    """Make the folder if it is missing. Raises ConfigurationError and WriteError."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder", remedy="name a folder for --signature-cache")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _read(path: Path) -> dict[bytes, bytes]:
    if not path.exists():
        return {}
    with open_input(path) as file, reading(path):
        if file.read(len(_MAGIC)) != _MAGIC:
            return {}
        data = file.read(MOST_ENTRIES * _ENTRY_BYTES)
    starts = range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES)
    return {
        data[start : start + capgo.CHECKSUM_BYTES]: data[start + capgo.CHECKSUM_BYTES : start + _ENTRY_BYTES]
        for start in starts
    }
