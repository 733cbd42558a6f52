"""The audit trail in the configuration: its table, and the grant to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privyseal_service.config.loading import parse_config
from privyseal_service.config.tables import ConfigError
from privyseal_service.domain.grants import Grant, Grants
from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operation_names import Operation

AUDIT = {"folder": "audit", "log": "audit.example.com/replica-1", "key": "audit.key"}
READER = {"name": "auditors", "callers": ["dns:auditor.example"], "operations": ["list-records"]}


def parse(**more: Any) -> Any:
    base: dict[str, Any] = {
        "listeners": [{"address": "127.0.0.1:0", "auth": "none"}],
        "keys": [{"name": "app", "uri": "software:app", "schemes": ["capgo"]}],
    }
    return parse_config({**base, **more}, "server.toml", Path("/etc/privyseal"))


def test_paths_are_relative_to_the_configuration() -> None:
    audit = parse(audit=AUDIT).audit
    assert (audit.folder, audit.key) == (Path("/etc/privyseal/audit"), Path("/etc/privyseal/audit.key"))


def test_there_may_be_none() -> None:
    assert parse().audit is None
    assert parse(audit={"enabled": False}).audit.enabled is False


@pytest.mark.parametrize(
    ("audit", "sentence"),
    [
        ({**AUDIT, "foldr": "x"}, "audit.foldr: there is no such setting; did you mean folder?"),
        ({**AUDIT, "key": 7}, "audit.key: "),
        ({"folder": "audit"}, "audit: an audit trail needs log and key"),
        ({**AUDIT, "sinks": [{"kind": "https"}]}, "audit.sinks[0].https.url: is missing"),
    ],
)
def test_what_is_wrong_is_named(audit: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(audit=audit)
    assert f"server.toml: {sentence}" in str(refused.value)


def test_a_grant_to_read_the_records() -> None:
    grants = Grants([grant.grant() for grant in parse(grants=[READER]).grants])
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
    ("change", "said"),
    [
        ({"keys": ["app"]}, "give it a grant of its own"),
        ({"operations": ["list-records", "sign-checksum"]}, "give it a grant of its own"),
        ({"schemes": ["capgo"]}, "give it a grant of its own"),
        ({"operations": ["sign-checksum"]}, "keys: must not be empty"),
        ({"operations": ["get-checkpoint"]}, "must be an operation"),
    ],
)
def test_it_is_for_nothing_else(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(grants=[{**READER, **change}])
