"""CodePush: the content hash of a release's folder, and the signed `.codepushrelease` file that goes into it.

Sources: `generatePackageHashFromDirectory` and the signing hook of npm's code-push-cli, and `CodePushUpdateUtils` in
react-native-code-push, which checks the same on devices.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from hashlib import sha256

from privyseal.errors import InputError

RELEASE_FILE = ".codepushrelease"
FOLDER = "CodePush"
"""Where react-native-code-push looks for the release file."""
CLAIM_VERSION = "1.0.0"

_UNHASHED = (".DS_Store", RELEASE_FILE)
_UNHASHED_FOLDER = "__MACOSX/"


def is_hashed(name: str) -> bool:
    """Whether a file counts. `name` is its path from the folder's parent, with slashes: `CodePush/assets/a.png`."""
    return not name.startswith(_UNHASHED_FOLDER) and name.rpartition("/")[2] not in _UNHASHED


def content_hash(digests: Mapping[str, bytes]) -> str:
    """The hash of a release, 64 hex characters, from the SHA-256 of each of its files by name (see `is_hashed`).

    It is the SHA-256 of the JSON array of `name:hex`, sorted as JavaScript sorts, by UTF-16 code units. Raises
    InputError when there is nothing to hash, or when two names differ only in a backslash, which counts as a slash.
    """
    entries: dict[str, str] = {}
    for given, digest in digests.items():
        name = given.replace("\\", "/")
        if not is_hashed(name):
            continue
        if name in entries:
            raise InputError(f"two files count as {name}", remedy="rename the one with a backslash in its name")
        entries[name] = f"{name}:{digest.hex()}"
    if not entries:
        raise InputError("the folder has no files", remedy="pass the folder that is to be released")
    ordered = sorted(entries.values(), key=lambda entry: entry.encode("utf-16-be"))
    return sha256(json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def signing_input(content: str, issued_at: int) -> bytes:
    """What is signed for a content hash: the first two parts of a JWT (RFC 7515, 5.1). `issued_at` is in seconds since
    1970, for its `iat`, which the CLI writes too and devices do not read."""
    header = {"alg": "RS256", "typ": "JWT"}
    claims = {"claimVersion": CLAIM_VERSION, "contentHash": content, "iat": issued_at}
    return b".".join(_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))


def release(signed: bytes, signature: bytes) -> bytes:
    """The content of the release file: a JWT of `signing_input` and RSASSA-PKCS1-v1_5 over its SHA-256."""
    return signed + b"." + _part(signature)


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
