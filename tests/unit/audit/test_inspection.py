"""`privyseal-server check` on the audit trail: whether it could be kept, which part could not, and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privyseal_service.audit.journal import Journal
from privyseal_service.audit.keys import load_key, make_key
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.config.audit import AuditConfig
from privyseal_service.domain.replica import Source
from privyseal_service.runtime.preflight import check_audit
from tests.support.audit.helpers import decision

LOG = "audit.example.com/replica-1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_key(LOG, tmp_path / "audit.key")
    return tmp_path


def config(place: Path, **more: Any) -> AuditConfig:
    said = {"folder": str(place / "audit"), "log": LOG, "key": str(place / "audit.key"), **more}
    return AuditConfig.model_validate_json(json.dumps(said))


def test_one_that_could_be_kept(place: Path) -> None:
    sinks = [
        {"kind": "file", "path": str(place / "elsewhere")},
        {"kind": "stdout"},
        {"kind": "https", "url": "https://audit.example.com/keep"},
    ]
    found = check_audit(config(place, sinks=sinks))
    assert (found.ok, found.part) == (True, "")
    assert (found.facts["records"], found.facts["sinks"]) == (0, ["file", "stdout", "https"])
    assert str(found.facts["public_key"]).startswith(f"{LOG}+")
    assert not (place / "audit").exists()  # nothing is written


def test_one_that_has_records(place: Path) -> None:
    journal = Journal(place / "audit", Source("replica-1", "w0"))
    sequencer = Sequencer(place / "audit", load_key(place / "audit.key"))
    journal.append([decision(0)])
    sequencer.merge()
    journal.close()
    sequencer.close()
    found = check_audit(config(place))
    assert found.facts["records"] == 2
    assert any("no checkpoint leaves this host" in note for note in found.notes)
    (place / "audit.key").unlink()
    make_key(LOG, place / "audit.key")
    found = check_audit(config(place))
    assert (found.part, "former_keys" in found.remedy) == ("log", True)


@pytest.mark.parametrize(
    ("spoil", "more", "part", "says"),
    [
        (lambda place: (place / "audit.key").unlink(), {}, "key", "no such file or directory; make it with"),
        (lambda place: (place / "audit.key").write_text("junk"), {}, "key", "audit.key"),
        (lambda place: (place / "audit.key").chmod(0o644), {}, "key", "audit.key"),
        (lambda _: None, {"log": "audit.example.com/other"}, "key", "is the key of audit.example.com/replica-1"),
        (lambda place: (place / "audit").write_text(""), {}, "folder", "is not a folder"),
        (
            lambda place: ((place / "audit").mkdir(), (place / "audit").chmod(0o777)),
            {},
            "folder",
            "can be changed by others; take that away with: chmod go-w",
        ),
        (
            lambda _: None,
            {"sinks": [{"kind": "file", "path": "/nonexistent/elsewhere"}]},
            "sink",
            "/nonexistent cannot be written to",
        ),
        (
            lambda _: None,
            {"sinks": [{"kind": "https", "url": "https://a.example/", "ca_file": "/nonexistent/ca.pem"}]},
            "sink",
            "ca.pem",
        ),
        (
            lambda _: None,
            {"sinks": [{"kind": "https", "url": "https://a.example/", "token_file": "/nonexistent/token"}]},
            "sink",
            "/nonexistent/token: no such file",
        ),
        (lambda _: None, {"sinks": [{"kind": "https", "url": "http://a.example/"}]}, "sink", "a.example"),
    ],
)
def test_one_that_could_not(
    place: Path, spoil: Callable[[Path], object], more: dict[str, Any], part: str, says: str
) -> None:
    spoil(place)
    found = check_audit(config(place, **more))
    assert (found.kind, found.ok, found.part) == ("audit", False, part)
    assert says in f"{found.message}; {found.remedy}"
    assert found.line().startswith(f"FAIL  audit {found.name}: {part}: ")


def test_none_and_one_that_is_switched_off() -> None:
    assert (check_audit(None).part, check_audit(AuditConfig(enabled=False)).ok) == ("audit", True)
    assert "development only" in check_audit(AuditConfig(enabled=False)).notes[0]
