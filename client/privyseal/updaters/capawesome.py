"""Capawesome live update: the signature of a zip, or of a single file of a manifest bundle.

Sources: `createSignature` and `createHash` in @capawesome/cli, `verifySignatureForFile` in
@capawesome/capacitor-live-update.
"""

from __future__ import annotations

import base64


def signature_field(signature: bytes) -> str:
    """The `signature` of a bundle and the `X-Signature` header of a file: base64 of RSASSA-PKCS1-v1_5 over its
    SHA-256."""
    return base64.b64encode(signature).decode()


def checksum_field(digest: bytes) -> str:
    """The `checksum` of a bundle and the `X-Checksum` header of a file: lower-case hex of its SHA-256, 32 bytes."""
    return digest.hex()
