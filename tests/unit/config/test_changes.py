"""What a reload puts into effect: every field has a mark, and a change of it is either taken up or reported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from privyseal.transparency.checkpoint import SignatureType, Signer, VerifierKey
from privyseal_service.config.changes import mark_of, needs_restart
from privyseal_service.config.fields import LIVE, RESTART, Model
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config

FOLDER = Path("/nonexistent")
LOG = "audit.example/replica-1"


def vkey(kind: SignatureType) -> str:
    made = Signer.generate("w.example").verifier
    return str(VerifierKey(made.name, kind, made.public_key))


BASE: dict[str, Any] = {
    "server": {"state_folder": "state", "workers": 2},
    "log": {},
    "identity": {},
    "audit": {
        "folder": "audit", "log": LOG, "key": "audit.key",
        "sinks": [
            {"kind": "file", "path": "checkpoints"},
            {"kind": "https", "url": "https://a.example"},
            {"kind": "witness", "url": "https://w.example", "key": vkey(SignatureType.COSIGNATURE)},
            {"kind": "stdout"},
        ],
    },
    "metrics": {"address": "127.0.0.1:9464"},
    "limits": {"storage": "rediss://127.0.0.1:1"},
    "listeners": [
        {
            "address": "127.0.0.1:1", "auth": "mtls", "certificate": "a", "certificate_key": "b",
            "client_cas": [{"file": "c", "names": ["dns:a.example"]}],
        },
        {"address": "127.0.0.1:2", "auth": "oidc", "certificate": "a", "certificate_key": "b"},
    ],
    "issuers": [
        {"issuer": "https://ci.example", "audiences": ["p"], "jwks_url": "https://ci.example/k", "claims": ["x"]},
    ],
    "stores": {"software": {"threads": 1}},
    "keys": [{"name": "a", "uri": "software:a", "schemes": ["capgo"], "custody": {}}],
    "grants": [
        {
            "name": "g", "callers": ["oidc:https://ci.example:x"], "keys": ["a"], "operations": ["wrap-session-key"],
            "window": {},
        },
    ],
}  # fmt: skip
"""A configuration with one of each table."""

OTHER: dict[str, Any] = {
    "server.grants_folder": "/",
    "server.state_folder": "elsewhere",
    "server.watch": True,
    "server.workers": 3,
    "server.pin_workers": True,
    "server.share_port": True,
    "server.grpc": "aio",
    "server.drain_wait_s": 1,
    "server.hang_after_s": 9,
    "server.shutdown_grace_s": 9,
    "server.default_deadline_s": 9,
    "server.open_wait_s": 9,
    "server.handshake_timeout_s": 9,
    "server.max_connection_age_s": 9,
    "server.max_connection_idle_s": 9,
    "server.max_concurrent_streams": 9,
    "server.max_connections": 9,
    "log.format": "json",
    "log.level": "debug",
    "identity.denied_certificates": ["serial:1"],
    "audit.enabled": None,
    "audit.folder": "elsewhere",
    "audit.log": "audit.example/replica-2",
    "audit.key": "other.key",
    "audit.former_keys": [str(Signer.generate(LOG).verifier)],
    "audit.replica": "other",
    "audit.segment_mib": 1,
    "audit.keep_segments_days": 1,
    "audit.denials_per_s": 1,
    "audit.denials_at_once": 1,
    "audit.sinks": [],
    "audit.sinks[0].kind": None,
    "audit.sinks[0].path": "elsewhere",
    "audit.sinks[1].kind": None,
    "audit.sinks[1].url": "https://b.example",
    "audit.sinks[1].ca_file": "ca.pem",
    "audit.sinks[1].token_file": "token",
    "audit.sinks[2].kind": None,
    "audit.sinks[2].url": "https://v.example",
    "audit.sinks[2].key": vkey(SignatureType.COSIGNATURE),
    "audit.sinks[2].ca_file": "ca.pem",
    "audit.sinks[3].kind": None,
    "metrics.address": "127.0.0.1:9465",
    "metrics.remote": True,
    "metrics.names": True,
    "limits.storage": "rediss://127.0.0.1:2",
    "limits.password_file": "password",
    "limits.ca_file": "ca.pem",
    "limits.when_away": "allow",
    "limits.timeout_s": 1,
    "limits.prefix": "other",
    "listeners[0].address": "127.0.0.1:3",
    "listeners[0].auth": "oidc",
    "listeners[0].certificate": "other",
    "listeners[0].certificate_key": "other",
    "listeners[0].client_cas": [{"file": "c", "names": ["dns:a.example"]}, {"file": "d", "names": ["dns:b.example"]}],
    "listeners[0].client_cas[0].file": "other",
    "listeners[0].client_cas[0].names": ["dns:b.example"],
    "listeners[0].allow_common_name": True,
    "issuers[0].issuer": "https://other.example",
    "issuers[0].audiences": ["q"],
    "issuers[0].algorithms": ["ES256"],
    "issuers[0].jwks_file": "jwks.json",
    "issuers[0].jwks_url": "https://ci.example/other",
    "issuers[0].jwks_ca_file": "ca.pem",
    "issuers[0].refresh_s": 60,
    "issuers[0].offline_grace_s": 1,
    "issuers[0].clock_skew_s": 1,
    "issuers[0].max_age_s": 1,
    "issuers[0].required_claims": {"x": "y"},
    "issuers[0].claims": ["y"],
    "keys[0].name": "b",
    "keys[0].uri": "software:b",
    "keys[0].schemes": ["rsaes-oaep-sha256"],
    "keys[0].fingerprint": "ab" * 32,
    "keys[0].custody": None,
    "keys[0].custody.protection": "hardware",
    "keys[0].custody.origin": "generated-inside",
    "keys[0].custody.export": "possible",
    "keys[0].required": True,
    "keys[0].state": "frozen",
    "grants[0].name": "h",
    "grants[0].callers": ["oidc:https://ci.example:y"],
    "grants[0].keys": ["a", "a"],
    "grants[0].operations": ["unwrap-session-key"],
    "grants[0].schemes": ["capgo"],
    "grants[0].claims": {"x": "y"},
    "grants[0].window": None,
    "grants[0].window.days": ["mon"],
    "grants[0].window.hours": "08:00-09:00",
    "grants[0].window.timezone": "Europe/Berlin",
    "grants[0].context": ["app_id"],
    "grants[0].rate": "1/second",
    "grants[0].daily_quota": 1,
    "grants[0].counted": "caller",
    "grants[0].priority": 1,
    "audit": None,
    "metrics": None,
    "listeners": BASE["listeners"][:1] * 3 + BASE["listeners"][1:],
    "issuers": [*BASE["issuers"], {**BASE["issuers"][0], "issuer": "https://other.example"}],
    "stores": {"software": {"threads": 2}},
    "keys": [*BASE["keys"], {**BASE["keys"][0], "name": "b"}],
    "grants": [],
}
"""Another value of each setting; None takes a table away. What needs more than one change is in TOGETHER."""

TOGETHER: dict[str, dict[str, Any]] = {
    "audit.enabled": {"audit": {"enabled": False}},
    "listeners[0].auth": {"listeners[0].auth": "oidc", "listeners[0].client_cas": []},
    "issuers[0].issuer": {"issuers[0].issuer": "https://o.example", "grants[0].callers": ["oidc:https://o.example:x"]},
    "issuers[0].jwks_file": {"issuers[0].jwks_file": "jwks.json", "issuers[0].jwks_url": None},
    "keys[0].name": {"keys[0].name": "b", "grants[0].keys": ["b"]},
}
"""Changes of one setting that are valid only beside others."""

ALONE = {"kind", "custody"}
"""Settings without another value: the kind of a table, and a table with only defaults."""


def fields(model: type[Model], data: Any, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each field of a model, by its name in BASE, `data` being the table there."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        value = data.get(name) if isinstance(data, dict) else None
        tables = value if isinstance(value, list) else [value]
        for place, table in enumerate(tables):
            inner = _model_of(field.annotation, table)
            if inner is not None:
                where = f"[{place}]" if isinstance(value, list) else ""
                yield from fields(inner, table, f"{prefix}{name}{where}.")


def _model_of(annotation: Any, table: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        kind = annotation.model_fields.get("kind")
        return annotation if kind is None or table["kind"] in get_args(kind.annotation) else None
    found = (_model_of(argument, table) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def changed(settings: dict[str, Any]) -> Config:
    data = copy.deepcopy(BASE)
    for setting, value in settings.items():
        *path, last = setting.replace("[", ".[").split(".")
        table: Any = data
        for part in path:
            table = table[int(part[1:-1])] if part[0] == "[" else table[part]
        if value is None:
            table.pop(last, None)
        else:
            table[last] = value
    return parse_config(data, "server.toml", FOLDER)


FIELDS = dict(fields(Config, BASE))
TABLES = {"server", "log", "identity", "limits"}
"""Tables that are always there: only their fields change."""

SETTINGS = sorted(
    name
    for name in FIELDS
    if name not in TABLES and name.rpartition(".")[2] not in ALONE and not name.startswith("listeners[1]")
)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_field_has_one_mark(name: str) -> None:
    assert mark_of(FIELDS[name]).word


def test_the_table_above_has_every_setting() -> None:
    assert set(SETTINGS) == {name for name in OTHER if name.rpartition(".")[2] not in ALONE}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_change_is_live_or_reported_by_name(name: str) -> None:
    old, new = changed({}), changed(TOGETHER.get(name, {name: OTHER[name]}))
    assert old != new
    reported = needs_restart(old, new)
    match mark_of(FIELDS[name]):
        case mark if mark is LIVE:
            assert reported == ()
        case mark if mark is RESTART:
            assert name in reported
        case _:
            assert name == "server.workers"


def test_workers_may_change_but_not_to_or_from_none() -> None:
    none, two, three, default = (changed({"server.workers": count}) for count in (0, 2, 3, None))
    assert needs_restart(two, three) == needs_restart(two, default) == needs_restart(three, two) == ()
    assert needs_restart(none, two) == needs_restart(two, none) == needs_restart(default, none) == ("server.workers",)


def test_every_change_that_needs_a_restart_is_reported() -> None:
    new = changed({"server.share_port": True, "log.level": "debug", "keys[0].state": "frozen", "metrics": None})
    assert needs_restart(changed({}), new) == ("server.share_port", "log.level", "metrics")


def test_tables_that_change_places_are_compared_in_their_new_places() -> None:
    new = changed({"listeners": BASE["listeners"][::-1]})
    assert set(needs_restart(changed({}), new)) == {
        "listeners[0].address", "listeners[0].auth", "listeners[1].address", "listeners[1].auth",
    }  # fmt: skip
