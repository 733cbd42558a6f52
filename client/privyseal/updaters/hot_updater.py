"""hot-updater: the signed hashes of an archive and of its manifest, and the signatures of the assets in a manifest.

What is signed is not the file but the 32 bytes of its SHA-256, which RSASSA then hashes again. Sources: `signBundle`,
`writeBundleManifest` in npm's hot-updater, `SignatureVerifier` in @hot-updater/react-native.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from privyseal.errors import InputError

MOST_MANIFEST_BYTES = 64 << 20
"""More than a manifest of a hundred thousand assets has."""

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_REMEDY = "pass the manifest.json that hot-updater wrote"


def checksum_to_sign(file_hash: bytes) -> bytes:
    """What is signed for a file: the SHA-256 of its SHA-256, which is 32 bytes."""
    return sha256(file_hash).digest()


def signed_hash(signature: bytes) -> str:
    """The `fileHash` of an archive and the `manifestFileHash`: `sig:` and base64."""
    return f"sig:{asset_signature(signature)}"


def asset_signature(signature: bytes) -> str:
    """The `signature` of an asset in a manifest: base64."""
    return base64.b64encode(signature).decode()


@dataclass(frozen=True)
class Manifest:
    """A bundle's `manifest.json`. `file_hashes` maps each asset's name to the SHA-256 of its file, 32 bytes."""

    file_hashes: Mapping[str, bytes]
    _fields: Mapping[str, Any]

    def with_signatures(self, signatures: Mapping[str, bytes]) -> str:
        """The manifest with a signature for every asset, laid out as hot-updater does. What else it holds stays."""
        assets = {
            name: {**asset, "signature": asset_signature(signatures[name])}
            for name, asset in self._fields["assets"].items()
        }
        return json.dumps({**self._fields, "assets": assets}, indent=2, ensure_ascii=False) + "\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Raises InputError for anything that hot-updater would not have written."""
    try:
        fields = json.loads(data, object_pairs_hook=_without_doubles)
        # Half a character is valid JSON and no text; a number without bounds is neither.
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
        assets = fields["assets"]
        hashes = {name: _file_hash(name, asset) for name, asset in assets.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is not a manifest of hot-updater", remedy=_REMEDY) from None
    return Manifest(hashes, fields)


def _file_hash(name: str, asset: Mapping[str, Any]) -> bytes:
    text = asset["fileHash"]
    if not _HASH.match(text):
        raise InputError(f"the fileHash of {name} is not a SHA-256", remedy=_REMEDY)
    return bytes.fromhex(text)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless a name stands in it twice: readers differ in which of the two they take."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InputError("the manifest has a name twice in one object", remedy=_REMEDY)
    return fields
