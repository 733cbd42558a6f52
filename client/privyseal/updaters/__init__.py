"""Other updaters than Capgo, one module each: what is hashed, and in which form its tool or device wants the signature.

All of them verify RSASSA-PKCS1-v1_5 with SHA-256, which every key store makes. The functions are pure; a signature that
verifies comes from `privyseal.signing.CheckedSigner`:

    with Client.from_environment() as client:
        signer = CheckedSigner(client, "my-app")
        header = expo.signature_header(signer.sign(sha256(manifest).digest(), updaters.SCHEME), keyid="main")
"""

from __future__ import annotations

from privyseal.model import SignatureScheme

SCHEME = SignatureScheme.RSASSA_PKCS1_V1_5_SHA256
"""What devices of every updater in this package verify."""
