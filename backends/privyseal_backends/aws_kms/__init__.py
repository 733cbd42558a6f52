"""AWS KMS, over boto3: `awskms:///ARN-or-alias`. `AwsKmsStore` tells an operator what it needs.

Install it with `pip install 'privyseal[aws]'`. What each module does: `address` reads the URI and the settings,
`session` makes clients and credentials, `lane` calls within deadline and quota, `errors` says what went wrong,
`capability` and `custody` say what a key is, `probe` asks for permission, `store` is the `KeyStore`.
"""

from __future__ import annotations

from collections.abc import Mapping

from privyseal_backends.aws_kms.address import parse_settings
from privyseal_backends.aws_kms.session import silence_secrets
from privyseal_backends.aws_kms.store import AwsKmsDecryptionKey, AwsKmsKey, AwsKmsStore

__all__ = ["AwsKmsDecryptionKey", "AwsKmsKey", "AwsKmsStore", "open_store"]


def open_store(settings: Mapping[str, object]) -> AwsKmsStore:
    """The entry point of the scheme `awskms`; see `privyseal_backends.interface.OpenStore`.

    It raises the log level of boto3 and botocore to WARNING, where it is lower: their debug records hold session
    tokens and recovered session keys.
    """
    silence_secrets()
    return AwsKmsStore(parse_settings(settings))
