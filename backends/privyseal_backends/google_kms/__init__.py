"""Google Cloud KMS: keys named by `gcpkms://projects/…/cryptoKeyVersions/N`.

`GoogleKeyStore` says which credentials and roles it needs, what the URI looks like and which errors come out.
"""

from __future__ import annotations

from privyseal_backends.google_kms.store import GoogleKeyStore, open_store

__all__ = ["GoogleKeyStore", "open_store"]
