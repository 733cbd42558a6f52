"""The [audit] table: what it needs, and the sentence for what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from privyseal.transparency.checkpoint import SignatureType, Signer, VerifierKey
from privyseal_service.config.audit import AuditConfig

LOG = "audit.example.com/replica-1"
WITNESS = str(VerifierKey("witness.example", SignatureType.COSIGNATURE, Ed25519PrivateKey.generate().public_key()))
WHOLE = {"folder": "audit", "log": LOG, "key": "audit.key"}


def parse(**table: object) -> AuditConfig:

    return AuditConfig.model_validate_json(json.dumps(table))


def test_the_least_of_it() -> None:
    config = parse(**WHOLE).within(Path("/etc/privyseal"))
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
    config = parse(
        **WHOLE, sinks=sinks, former_keys=[former], replica="r.7", keep_segments_days=2, segment_mib=1
    ).within(Path("/etc"))
    assert [getattr(sink, "path", None) for sink in config.sinks] == [Path("/etc/out/checkpoints"), None, None, None]
    assert config.sinks[2].ca_file == Path("/etc/ca.pem")  # type: ignore[union-attr]
    assert config.sinks[2].token_file == Path("/run/token")  # type: ignore[union-attr]
    assert str(config.sinks[3].verifier()) == WITNESS  # type: ignore[union-attr]
    assert [str(key) for key in config.verifiers()] == [former]
    assert (config.replica_name, config.keep_segments_s) == ("r.7", 172_800.0)


def test_it_survives_being_handed_on() -> None:
    config = parse(**WHOLE, sinks=[{"kind": "file", "path": "x"}]).within(Path("/etc"))
    assert AuditConfig.model_validate_json(config.model_dump_json(exclude_defaults=True)) == config


def test_none_at_all() -> None:
    assert not parse(enabled=False).within(Path("/etc")).enabled


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"enabled": False}, "enabled = false keeps no audit trail: take away folder and key and log"),
        ({"folder": None}, "an audit trail needs folder"),
        ({"log": ""}, "cannot name a log"),
        ({"log": "a b"}, "cannot name a log"),
        ({"log": "https://example.com/é"}, "set replica, since the last part of log does not do"),
        ({"replica": "a/b"}, "set replica"),
        ({"former_keys": ["x"]}, "must be a public key as `audit keygen` prints it"),
        ({"former_keys": [str(Signer.generate("other.example").verifier)]}, f"former_keys must be keys of {LOG}"),
        ({"sinks": [{"kind": "witness", "url": "https://w", "key": str(Signer.generate("w").verifier)}]}, "type 4"),
        ({"sinks": [{"kind": "carrier pigeon"}]}, "carrier pigeon"),
        ({"folders": "x"}, "folders"),
        ({"segment_mib": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], said: str) -> None:
    table = {name: value for name, value in {**WHOLE, **change}.items() if value is not None}
    with pytest.raises(ValidationError) as refused:
        parse(**table)
    assert said in str(refused.value)


def test_nothing_that_is_missing_goes_unsaid() -> None:
    with pytest.raises(ValidationError, match="an audit trail needs folder and log and key"):
        parse()
