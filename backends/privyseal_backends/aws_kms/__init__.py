"""AWS KMS, over boto3: `awskms:///ARN-or-alias`. `AwsKmsStore` tells an operator what it needs.

Install it with `pip install 'privyseal[aws]'`. What each module does: `address` reads the URI and the settings,
`session` makes clients and credentials, `lane` calls within deadline and quota, `errors` says what went wrong,
`capability` and `custody` say what a key is, `probe` asks for permission, `store` is the `KeyStore`.
"""
