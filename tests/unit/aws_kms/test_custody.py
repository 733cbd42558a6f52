"""Custody of an AWS KMS key: a row for every attribute that can lower a finding."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from privyseal_backends.aws_kms.custody import KeyFacts, custody
from privyseal_backends.interface import Evidence, Export, Origin, Protection

ARN = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
BEST = KeyFacts(
    arn=ARN,
    endpoint="https://kms.eu-west-1.amazonaws.com",
    origin="AWS_KMS",
    key_manager="CUSTOMER",
    key_state="Enabled",
    key_spec="RSA_2048",
    key_usage="SIGN_VERIFY",
)
HARDWARE, UNKNOWN = Protection.HARDWARE, Protection.UNKNOWN
INSIDE, IMPORTED, NOT_TOLD = Origin.GENERATED_INSIDE, Origin.IMPORTED, Origin.UNKNOWN
NEVER, ONCE, OPEN = Export.NEVER_POSSIBLE, Export.POSSIBLE_ONCE, Export.UNKNOWN

ROWS: list[tuple[str, dict[str, object], tuple[Protection, Origin, Export]]] = [
    ("the best that there is", {}, (HARDWARE, INSIDE, NEVER)),
    ("imported", {"origin": "EXTERNAL"}, (HARDWARE, IMPORTED, ONCE)),
    (
        "imported, and it expires",
        {"origin": "EXTERNAL", "expiration_model": "KEY_MATERIAL_EXPIRES"},
        (HARDWARE, IMPORTED, ONCE),
    ),
    ("in a CloudHSM cluster", {"origin": "AWS_CLOUDHSM", "custom_key_store_id": "cks-1"}, (HARDWARE, INSIDE, OPEN)),
    ("in an external key store", {"origin": "EXTERNAL_KEY_STORE"}, (UNKNOWN, NOT_TOLD, OPEN)),
    ("an external key's id alone", {"external_key_id": "bb8562717f809024"}, (UNKNOWN, NOT_TOLD, OPEN)),
    ("a custom key store with an own origin", {"custom_key_store_id": "cks-1"}, (UNKNOWN, NOT_TOLD, OPEN)),
    ("a cluster with an own origin", {"cloud_hsm_cluster_id": "cluster-1"}, (UNKNOWN, NOT_TOLD, OPEN)),
    (
        "a custom key store with imported material",
        {"origin": "EXTERNAL", "custom_key_store_id": "cks-1"},
        (UNKNOWN, NOT_TOLD, OPEN),
    ),
    ("an origin of tomorrow", {"origin": "QUANTUM"}, (UNKNOWN, NOT_TOLD, OPEN)),
    ("no origin", {"origin": ""}, (UNKNOWN, NOT_TOLD, OPEN)),
    ("multi-Region", {"multi_region": True}, (HARDWARE, INSIDE, ONCE)),
    (
        "a multi-Region replica",
        {"multi_region": True, "multi_region_type": "REPLICA", "primary_arn": ARN},
        (HARDWARE, INSIDE, ONCE),
    ),
    ("multi-Region and imported", {"multi_region": True, "origin": "EXTERNAL"}, (HARDWARE, IMPORTED, ONCE)),
    ("managed by AWS", {"key_manager": "AWS"}, (HARDWARE, INSIDE, OPEN)),
    ("managed by nobody named", {"key_manager": ""}, (HARDWARE, INSIDE, OPEN)),
    ("disabled", {"key_state": "Disabled"}, (UNKNOWN, INSIDE, NEVER)),
    ("pending import", {"origin": "EXTERNAL", "key_state": "PendingImport"}, (UNKNOWN, IMPORTED, ONCE)),
    ("no state", {"key_state": ""}, (UNKNOWN, INSIDE, NEVER)),
    ("an endpoint that is not AWS's", {"endpoint": "https://kms.example"}, (UNKNOWN, INSIDE, NEVER)),
    ("an emulator", {"endpoint": "http://127.0.0.1:4566"}, (UNKNOWN, INSIDE, NEVER)),
    ("a FIPS endpoint", {"endpoint": "https://kms-fips.eu-west-1.amazonaws.com"}, (HARDWARE, INSIDE, NEVER)),
    (
        "a VPC endpoint",
        {"endpoint": "https://vpce-1-2.kms.eu-west-1.vpce.amazonaws.com"},
        (HARDWARE, INSIDE, NEVER),
    ),
    ("with a key material id", {"current_key_material_id": "ab" * 32}, (HARDWARE, INSIDE, NEVER)),
    ("of another spec", {"key_spec": "RSA_4096"}, (HARDWARE, INSIDE, NEVER)),
    ("of another usage", {"key_usage": "ENCRYPT_DECRYPT"}, (HARDWARE, INSIDE, NEVER)),
]


@pytest.mark.parametrize(("changes", "findings"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_findings(changes: dict[str, object], findings: tuple[Protection, Origin, Export]) -> None:
    found = custody(replace(BEST, **changes))  # type: ignore[arg-type]
    assert (found.protection, found.origin, found.export) == findings
    for reasons in (found.protection_reasons, found.origin_reasons, found.export_reasons):
        assert reasons
        assert all(reason.endswith(".") for reason in reasons)


def test_every_fact_has_a_row() -> None:
    """A fact that is added has to be looked at here too; `replica_arns` and `arn` are names alone."""
    in_rows = {name for _, changes, _ in ROWS for name in changes}
    assert in_rows == {fact.name for fact in fields(KeyFacts)} - {"arn", "replica_arns"}


def test_each_fact_that_lowers_is_a_reason() -> None:
    found = custody(replace(BEST, origin="EXTERNAL", multi_region=True, key_manager="AWS", key_state="Disabled"))
    assert found.export is Export.UNKNOWN
    assert len(found.export_reasons) == 3
    assert found.protection_reasons == ("The key's state is Disabled, so nothing tells that its material is there.",)


METADATA: dict[str, object] = {
    "Arn": ARN,
    "KeyId": ARN.rpartition("/")[2],
    "Origin": "EXTERNAL",
    "KeyManager": "CUSTOMER",
    "KeyState": "Enabled",
    "KeySpec": "RSA_2048",
    "KeyUsage": "SIGN_VERIFY",
    "MultiRegion": True,
    "MultiRegionConfiguration": {
        "MultiRegionKeyType": "REPLICA",
        "PrimaryKey": {"Arn": ARN, "Region": "eu-west-1"},
        "ReplicaKeys": [{"Arn": "arn:of:replica-1", "Region": "a"}, {"Arn": "arn:of:replica-2", "Region": "b"}],
    },
    "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    "CurrentKeyMaterialId": "ab" * 32,
    "CustomKeyStoreId": "cks-1",
    "CloudHsmClusterId": "cluster-1",
    "XksKeyConfiguration": {"Id": "bb8562717f809024"},
}


def test_facts_and_evidence_from_key_metadata() -> None:
    facts = KeyFacts.of(METADATA, "https://kms-fips.eu-west-1.amazonaws.com")
    assert custody(facts).evidence == (
        Evidence("Arn", ARN),
        Evidence("Origin", "EXTERNAL"),
        Evidence("KeyManager", "CUSTOMER"),
        Evidence("KeyState", "Enabled"),
        Evidence("KeySpec", "RSA_2048"),
        Evidence("KeyUsage", "SIGN_VERIFY"),
        Evidence("MultiRegion", "true"),
        Evidence("MultiRegionConfiguration.MultiRegionKeyType", "REPLICA"),
        Evidence("MultiRegionConfiguration.PrimaryKey.Arn", ARN),
        Evidence("MultiRegionConfiguration.ReplicaKeys.Arn", "arn:of:replica-1 arn:of:replica-2"),
        Evidence("CustomKeyStoreId", "cks-1"),
        Evidence("CloudHsmClusterId", "cluster-1"),
        Evidence("XksKeyConfiguration.Id", "bb8562717f809024"),
        Evidence("ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
        Evidence("CurrentKeyMaterialId", "ab" * 32),
        Evidence("endpoint.url", "https://kms-fips.eu-west-1.amazonaws.com"),
        Evidence("endpoint.fips", "true"),
    )


def test_metadata_that_says_nothing_gives_the_least() -> None:
    found = custody(KeyFacts.of({}, ""))
    assert (found.protection, found.origin, found.export) == (UNKNOWN, NOT_TOLD, OPEN)


def test_a_multi_region_configuration_counts_without_the_flag() -> None:
    facts = KeyFacts.of({"MultiRegion": False, "MultiRegionConfiguration": {"MultiRegionKeyType": "PRIMARY"}}, "")
    assert facts.multi_region
