"""The [audit] table, and the grant to read the audit trail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privyseal.transparency.checkpoint import SignatureType, Signer, VerifierKey
from privyseal_service.config.audit import AuditConfig
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import parse_config
from privyseal_service.domain.grants import Grant, Grants
from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operation_names import Operation

LOG = "audit.example.com/replica-1"
WITNESS = str(VerifierKey("witness.example", SignatureType.COSIGNATURE, Ed25519PrivateKey.generate().public_key()))
READER = {"name": "auditors", "callers": ["dns:auditor.example"], "operations": ["list-records"]}
WHOLE = {"folder": "audit", "log": LOG, "key": "audit.key"}


def parse(within: str = "/etc", **table: object) -> AuditConfig:
    return AuditConfig.model_validate_json(json.dumps(table), context={"folder": Path(within)})


def test_the_least_of_it() -> None:
    config = parse("/etc/privyseal", **WHOLE)
    assert (config.root, config.key_file) == (Path("/etc/privyseal/audit"), Path("/etc/privyseal/audit.key"))
    assert config.replica_name == "replica-1"
    assert config.keep_segments_s is None


def test_all_of_it() -> None:
    sinks = [
        {"kind": "file", "path": "out/checkpoints"},
        {"kind": "stdout"},
        {"kind": "https", "url": "https://a.example/x", "ca_file": "ca.pem", "token_file": "/run/token"},
        {"kind": "witness", "url": "https://w.example", "key": WITNESS},
    ]
    former = str(Signer.generate(LOG).verifier)
    config = parse(**WHOLE, sinks=sinks, former_keys=[former], replica="r.7", keep_segments_days=2, segment_mib=1)
    assert [getattr(sink, "path", None) for sink in config.sinks] == [Path("/etc/out/checkpoints"), None, None, None]
    assert config.sinks[2].ca_file == Path("/etc/ca.pem")  # type: ignore[union-attr]
    assert config.sinks[2].token_file == Path("/run/token")  # type: ignore[union-attr]
    assert str(config.sinks[3].verifier()) == WITNESS  # type: ignore[union-attr]
    assert [str(key) for key in config.verifiers()] == [former]
    assert (config.replica_name, config.keep_segments_s) == ("r.7", 172_800.0)


def test_it_survives_being_handed_on() -> None:
    config = parse(**WHOLE, sinks=[{"kind": "file", "path": "x"}])
    assert AuditConfig.model_validate_json(config.model_dump_json(exclude_defaults=True)) == config


def test_none_at_all() -> None:
    assert not parse(enabled=False).enabled


def load(**more: Any) -> Any:
    base: dict[str, Any] = {
        "listeners": [{"address": "127.0.0.1:0", "auth": "none"}],
        "keys": [{"name": "app", "uri": "software:app", "schemes": ["capgo"]}],
    }
    return parse_config({**base, **more}, "server.toml", Path("/etc/privyseal"))


def test_there_may_be_none() -> None:
    assert load().audit is None
    assert load(audit={"enabled": False}).audit.enabled is False


def test_a_grant_to_read_the_records() -> None:
    grants = Grants([grant.grant() for grant in load(grants=[READER]).grants])
    granted = grants.listing_records("dns:auditor.example")
    assert granted is not None
    assert granted.name == "auditors"
    assert grants.listing_records("dns:build.example") is None
    assert grants.of_caller("dns:auditor.example") == {}


def test_a_grant_on_a_key_reads_no_records() -> None:
    grant = Grant("all", (CallerPattern.parse("dns:a.example"),), frozenset({"app"}), frozenset(Operation) - READ)
    assert Grants([grant]).listing_records("dns:a.example") is None


READ = {Operation.LIST_RECORDS}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"keys": ["app"]}, "grants[0]"),
        ({"operations": ["list-records", "sign-checksum"]}, "grants[0]"),
        ({"schemes": ["capgo"]}, "grants[0]"),
        ({"operations": ["sign-checksum"]}, "grants[0]"),
        ({"operations": ["get-checkpoint"]}, "grants[0].operations[0]"),
    ],
)
def test_it_is_for_nothing_else(change: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(grants=[{**READER, **change}])
    assert str(caught.value).startswith(f"server.toml: {place}: ")
