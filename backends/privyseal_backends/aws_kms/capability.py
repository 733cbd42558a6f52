"""What an AWS KMS key can do, from its spec, its usage and its algorithms; and why it cannot do the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from privyseal_backends.interface import Mechanism, OperatorError

MODULUS_BITS: Mapping[str, int] = MappingProxyType({"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096})
"""The key specs that this backend uses, with the bits of their modulus."""

ALGORITHMS: Mapping[Mechanism, str] = MappingProxyType(
    {
        Mechanism.PKCS1_V1_5_SHA256: "RSASSA_PKCS1_V1_5_SHA_256",
        Mechanism.PSS_SHA256: "RSASSA_PSS_SHA_256",
        Mechanism.OAEP_SHA256: "RSAES_OAEP_SHA_256",
    }
)
"""AWS KMS's name of each mechanism that this backend uses. Its RSASSA_PSS_SHA_256 salts with 32 bytes."""

USAGES: Mapping[Mechanism, str] = MappingProxyType(
    {
        Mechanism.PKCS1_V1_5_SHA256: "SIGN_VERIFY",
        Mechanism.PSS_SHA256: "SIGN_VERIFY",
        Mechanism.OAEP_SHA256: "ENCRYPT_DECRYPT",
    }
)
"""The KeyUsage that each mechanism needs. AWS KMS fixes a key's usage when it is made, and a key has one."""

NO_TYPE1 = (
    "AWS KMS puts a DigestInfo into every PKCS#1 v1.5 signature, so it cannot make the type-1 blocks that devices of"
    " Capgo read; AWS CloudHSM can, through the PKCS#11 backend"
)
NO_OAEP_SHA1 = (
    "every RSA decryption key of AWS KMS has OAEP with SHA-256, so OAEP with SHA-1 is not used there; wrap with"
    " rsaes-oaep-sha256"
)


def capability(key_spec: str, key_usage: str, algorithms: Collection[str]) -> dict[Mechanism, str]:
    """A sentence for each mechanism that the key does not have, and an empty text for each that it has.

    `algorithms` are the key's SigningAlgorithms and EncryptionAlgorithms together. Raises `OperatorError` for a key
    that could serve nothing.
    """
    if key_spec not in MODULUS_BITS:
        raise OperatorError(
            "key", f"the AWS KMS key is of the spec {key_spec}", f"name a key of one of {', '.join(MODULUS_BITS)}"
        )
    if key_usage not in USAGES.values():
        raise OperatorError(
            "key", f"the AWS KMS key is for {key_usage}", "name a key made for SIGN_VERIFY or for ENCRYPT_DECRYPT"
        )
    refusals = {Mechanism.TYPE1: NO_TYPE1, Mechanism.OAEP_SHA1: NO_OAEP_SHA1}
    for mechanism, algorithm in ALGORITHMS.items():
        usage = USAGES[mechanism]
        if key_usage != usage:
            refusals[mechanism] = f"the key was made for {key_usage}, and that is for ever; make one for {usage}"
        elif algorithm not in algorithms:
            refusals[mechanism] = f"AWS KMS does not list {algorithm} for the key; name a key that has it"
        else:
            refusals[mechanism] = ""
    return refusals
