"""AWS KMS, over boto3: `awskms:///ARN-or-alias`. `AwsKmsStore` documents the permissions and settings that it needs.

Install it with `pip install 'privyseal[aws]'`. It may import `privyseal_backends.interface` and what all backends
share, and no other backend. Begin with `store`, the `KeyStore`: `address` parses the URI, `settings` the settings,
`credentials` makes clients, `executor` calls within deadline and quota, `answers` and `errors` read what came back,
`capability` and `custody` describe a key, and `probe` checks permissions.
"""
