"""Custody of an AWS KMS key: a pure function from what AWS KMS says of it to three findings with their reasons.

The rules rest on the AWS KMS Developer Guide (key material origin, multi-Region keys, custom key stores) and on the API
Reference (KeyMetadata). AWS KMS signs no statement about a key: the findings are as good as its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privyseal_backends.aws_kms.address import is_aws_endpoint, is_fips_endpoint
from privyseal_backends.interface import Custody, Evidence, Export, Origin, Protection


@dataclass(frozen=True)
class KeyFacts:
    """What DescribeKey said of a key, by AWS's own names, and through which endpoint; empty where it said nothing."""

    arn: str = ""
    endpoint: str = ""
    origin: str = ""
    key_manager: str = ""
    key_state: str = ""
    multi_region: bool = False
    multi_region_type: str = ""
    primary_arn: str = ""
    replica_arns: tuple[str, ...] = ()
    custom_key_store_id: str = ""
    cloud_hsm_cluster_id: str = ""
    external_key_id: str = ""
    expiration_model: str = ""
    current_key_material_id: str = ""
    key_spec: str = ""
    key_usage: str = ""

    @classmethod
    def of(cls, metadata: Mapping[str, object], endpoint: str) -> KeyFacts:
        """From a KeyMetadata of DescribeKey."""

        def text(name: str, place: Mapping[str, object] = metadata) -> str:
            value = place.get(name)
            return value if isinstance(value, str) else ""

        def inner(name: str, place: Mapping[str, object] = metadata) -> Mapping[str, object]:
            value = place.get(name)
            return value if isinstance(value, Mapping) else {}

        regions = inner("MultiRegionConfiguration")
        replicas = regions.get("ReplicaKeys")
        return cls(
            arn=text("Arn"),
            endpoint=endpoint,
            origin=text("Origin"),
            key_manager=text("KeyManager"),
            key_state=text("KeyState"),
            multi_region=bool(metadata.get("MultiRegion")) or bool(regions),
            multi_region_type=text("MultiRegionKeyType", regions),
            primary_arn=text("Arn", inner("PrimaryKey", regions)),
            replica_arns=tuple(text("Arn", replica) for replica in replicas) if isinstance(replicas, list) else (),
            custom_key_store_id=text("CustomKeyStoreId"),
            cloud_hsm_cluster_id=text("CloudHsmClusterId"),
            external_key_id=text("Id", inner("XksKeyConfiguration")),
            expiration_model=text("ExpirationModel"),
            current_key_material_id=text("CurrentKeyMaterialId"),
            key_spec=text("KeySpec"),
            key_usage=text("KeyUsage"),
        )


def custody(facts: KeyFacts) -> Custody:
    """The findings for a key: the least that any of the facts allows, with a reason for each fact that counted."""
    protection, protection_reasons = _protection(facts)
    origin, origin_reasons = _origin(facts)
    export, export_reasons = _export(facts)
    return Custody(
        protection, protection_reasons, origin, origin_reasons, export, export_reasons, evidence=_evidence(facts)
    )


def _store(facts: KeyFacts) -> str:
    """The key's Origin, and no Origin where it contradicts the rest: an own material in a custom key store."""
    custom = facts.custom_key_store_id or facts.cloud_hsm_cluster_id or facts.external_key_id
    if facts.external_key_id:
        return "EXTERNAL_KEY_STORE"
    return "" if custom and facts.origin in {"AWS_KMS", "EXTERNAL"} else facts.origin


def _protection(facts: KeyFacts) -> tuple[Protection, tuple[str, ...]]:
    reasons: list[str] = []
    if not is_aws_endpoint(facts.endpoint):
        reasons.append("The endpoint is not one of AWS's own names over TLS, so nothing tells what is behind it.")
    match _store(facts):
        case "AWS_KMS" | "EXTERNAL":
            found = "AWS KMS says that it keeps and uses the key in its own HSMs; it signs no statement of that."
        case "AWS_CLOUDHSM":
            found = "AWS KMS says that the key is in the AWS CloudHSM cluster of a custom key store."
        case "EXTERNAL_KEY_STORE":
            found = ""
            reasons.append("The key is in an external key store outside AWS, of which AWS KMS knows nothing.")
        case _:
            found = ""
            reasons.append(f"The Origin {facts.origin or 'that AWS KMS left out'} does not tell where the key is.")
    if facts.key_state != "Enabled":
        state = facts.key_state or "not told"
        reasons.append(f"The key's state is {state}, so nothing tells that its material is there.")
    if reasons:
        return Protection.UNKNOWN, tuple(reasons)
    return Protection.HARDWARE, (found,)


def _origin(facts: KeyFacts) -> tuple[Origin, tuple[str, ...]]:
    match _store(facts):
        case "AWS_KMS":
            return Origin.GENERATED_INSIDE, ("AWS KMS generated the key material (Origin AWS_KMS).",)
        case "EXTERNAL":
            return Origin.IMPORTED, ("The key material was made outside and imported (Origin EXTERNAL).",)
        case "AWS_CLOUDHSM":
            return Origin.GENERATED_INSIDE, ("The key material was generated in the cluster (Origin AWS_CLOUDHSM).",)
        case "EXTERNAL_KEY_STORE":
            return Origin.UNKNOWN, ("The external key store's own manager made the key, and AWS KMS cannot tell how.",)
        case _:
            return Origin.UNKNOWN, (f"The Origin {facts.origin or 'that AWS KMS left out'} does not tell.",)


def _export(facts: KeyFacts) -> tuple[Export, tuple[str, ...]]:
    lowered: list[tuple[Export, str]] = []
    match _store(facts):
        case "AWS_KMS":
            pass
        case "EXTERNAL":
            lowered.append((Export.POSSIBLE_ONCE, "The key material was outside before it was imported."))
        case "AWS_CLOUDHSM":
            lowered.append((Export.UNKNOWN, "The users and the backups of the cluster are beyond what AWS KMS tells."))
        case "EXTERNAL_KEY_STORE":
            lowered.append((Export.UNKNOWN, "The external key store's own manager decides whether the key can leave."))
        case _:
            lowered.append((Export.UNKNOWN, "Where the key is kept is not known, so neither is whether it can leave."))
    if facts.multi_region:
        copies = "It is a multi-Region key: AWS KMS can copy it into its HSMs of other Regions, under another policy."
        lowered.append((Export.POSSIBLE_ONCE, copies))
    if facts.key_manager != "CUSTOMER":
        manager = facts.key_manager or "nobody that AWS KMS names"
        lowered.append((Export.UNKNOWN, f"The key is managed by {manager}, not by the account that owns it."))
    if not lowered:
        return Export.NEVER_POSSIBLE, ("AWS KMS has no operation that gives a private key out.",)
    return min(finding for finding, _ in lowered), tuple(reason for _, reason in lowered)


def _evidence(facts: KeyFacts) -> tuple[Evidence, ...]:
    told = {
        "Arn": facts.arn,
        "Origin": facts.origin,
        "KeyManager": facts.key_manager,
        "KeyState": facts.key_state,
        "KeySpec": facts.key_spec,
        "KeyUsage": facts.key_usage,
        "MultiRegion": "true" if facts.multi_region else "false",
        "MultiRegionConfiguration.MultiRegionKeyType": facts.multi_region_type,
        "MultiRegionConfiguration.PrimaryKey.Arn": facts.primary_arn,
        "MultiRegionConfiguration.ReplicaKeys.Arn": " ".join(facts.replica_arns),
        "CustomKeyStoreId": facts.custom_key_store_id,
        "CloudHsmClusterId": facts.cloud_hsm_cluster_id,
        "XksKeyConfiguration.Id": facts.external_key_id,
        "ExpirationModel": facts.expiration_model,
        "CurrentKeyMaterialId": facts.current_key_material_id,
        "endpoint.url": facts.endpoint,
        "endpoint.fips": "true" if is_fips_endpoint(facts.endpoint) else "false",
    }
    return tuple(Evidence(name, value) for name, value in told.items() if value)
