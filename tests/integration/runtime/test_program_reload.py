"""SIGHUP, changed files and `grants`, with the real program and its workers."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.pki import CA
from tests.support.processes import until
from tests.support.service import secure_channel
from tests.support.serving import (
    CALLER,
    KEY,
    SIGN,
    Place,
    Serving,
    configure_software,
    head,
    outcome,
    sentence,
    settled,
)

GRANT = f'[[grants]]\nname = "all"\ncallers = ["{CALLER}"]\nkeys = ["demo"]\noperations = ["sign-checksum"]\n'


def problems(serving: Serving) -> str:
    with serving.channel() as channel:
        _, call = HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=20)
        return str(dict(call.trailing_metadata())["privyseal-problems"])


@pytest.mark.parametrize("workers", [0, 2])
def test_sighup(software: Place, workers: int) -> None:
    """The key is frozen, thawed, and what nobody can use changes nothing."""
    configure_software(software, head=head(workers))
    good = software.config.read_text()
    with software.serving() as serving:
        settled(serving, "OK")
        software.config.write_text(good.replace(KEY, KEY + 'state = "frozen"\n'))
        serving.process.send_signal(signal.SIGHUP)
        settled(serving, "FAILED_PRECONDITION")
        software.config.write_text("grants = [")
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: "the configuration stays as it was" in serving.log)
        until(lambda: problems(serving) == "1")
        assert outcome(serving) == "FAILED_PRECONDITION"
        software.config.write_text(good)
        serving.process.send_signal(signal.SIGHUP)
        settled(serving, "OK")
        until(lambda: problems(serving) == "0")
        assert serving.stop() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_change(software: Place, workers: int) -> None:
    """A file of grants that comes, changes and goes is taken up by itself; so are certificates and CAs."""
    folder = software.folder / "grants.d"
    folder.mkdir()
    configure_software(software, head=head(workers, watch=True, grants_folder="grants.d"))
    text = software.config.read_text()
    software.config.write_text(text[: text.index("[[grants]]")])
    with software.serving() as serving:
        settled(serving, "PERMISSION_DENIED")
        (folder / "farm.toml").write_text(GRANT)
        settled(serving, "OK")
        (folder / "farm.toml").write_text(GRANT.replace('"demo"', '"none"'))
        until(lambda: "farm.toml: grants[0].keys[0]: " in serving.log)
        assert outcome(serving) == "OK"
        (folder / "farm.toml").unlink()
        settled(serving, "PERMISSION_DENIED")
        (folder / "farm.toml").write_text(GRANT)
        settled(serving, "OK")
        other = CA("Other")
        other.write(software.folder)
        until(lambda: outcome(serving) == "UNAVAILABLE")
        with secure_channel(serving.address, software.ca, other.issue(dns=["a.build.example"])) as channel:
            until(lambda: SigningServiceStub(channel).SignChecksum(SIGN, timeout=20, wait_for_ready=True).signature)
        assert serving.stop() == 0


def test_workers_count_together_and_over_their_deaths(software: Place) -> None:
    configure_software(software, head=head(2, state_folder="state"))
    software.config.write_text(software.config.read_text() + "daily_quota = 20\n")
    checksums = [hashlib.sha256(str(number).encode()).digest() for number in range(5)]
    request = pb.BatchSignChecksumsRequest(checksums=checksums, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
    for _ in range(2):
        with software.serving() as serving:
            for _ in range(2):
                with serving.channel() as channel:
                    assert len(SigningServiceStub(channel).BatchSignChecksums(request, timeout=20).results) == 5
            assert serving.stop() == 0
    with software.serving() as serving:
        assert {outcome(serving) for _ in range(6)} == {"RESOURCE_EXHAUSTED"}


@pytest.fixture
def granted(software: Place) -> Place:
    software.config.write_text(
        software.config.read_text()
        + GRANT.replace('"all"', '"hours"').replace(CALLER, "dns:b.build.example")
        + 'window = { days = ["mon"], hours = "08:00-18:00" }\ncontext = ["app_id"]\nschemes = ["capgo-v3"]\n'
    )
    return software


def explain(place: Place, *arguments: str) -> tuple[int, list[str]]:
    done = place.run("grants", "explain", "--config", str(place.config), *arguments)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


ASKED = ("--caller", "dns:b.build.example", "--key", "demo", "--operation", "sign-checksum")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--scheme", "capgo-v3", "--at", "2026-11-23T09:00:00Z", "--context", "app_id=x"), 0, "it allows this"),
        (("--scheme", "capgo-v2", "--at", "2026-11-23T09:00:00Z"), 1, "it is not for capgo-v2"),
        (("--at", "2026-11-23T09:00:00Z"), 1, "it wants app_id in the request's context"),
        (
            ("--at", "2026-11-24T09:00:00+00:00", "--context", "app_id=x"),
            1,
            "it holds at other times: mon 08:00-18:00 UTC",
        ),
    ],
)
def test_explain(granted: Place, arguments: tuple[str, ...], code: int, says: str) -> None:
    found, lines = explain(granted, *ASKED, *arguments)
    assert (found, lines[0]) == (code, "no      all: it does not name the caller")
    assert lines[1] == f"{'no    ' if code else 'allows'}  hours: {says}"
    assert lines[2] == ("refused: no grant allows it" if code else "allowed by hours")


def test_explain_for_a_program(granted: Place) -> None:
    asked = ("--caller", CALLER, "--key", "demo", "--operation", "sign-checksum", "--json")
    code, lines = explain(granted, *asked)
    said = json.loads("\n".join(lines))
    assert (code, said["allowed_by"]) == (0, "all")
    assert said["grants"][0] == {"grant": "all", "file": str(granted.config), "allows": True, "why": "it allows this"}
    granted.config.write_text(granted.config.read_text().replace(KEY, KEY + 'state = "frozen"\n'))
    code, lines = explain(granted, *asked[:-1])
    assert (code, lines[-1]) == (1, "refused: the key is frozen")
    code, lines = explain(granted, "--caller", CALLER, "--key", "none", "--operation", "sign-checksum")
    assert (code, lines[-1]) == (1, "refused: there is no such key")


def test_list(granted: Place) -> None:
    done = granted.run("grants", "list", "--config", str(granted.config), "--json")
    first, second = json.loads(done.stdout)
    assert (first["name"], first["file"], first["window"]) == ("all", str(granted.config), None)
    assert (second["window"], second["context"], second["schemes"]) == ("mon 08:00-18:00 UTC", ["app_id"], ["capgo-v3"])
    assert granted.run("grants", "list", "--config", str(granted.config)).stdout.startswith("all: {")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--caller", "x", "--operation", "sing", "--key", "demo"), "--operation must be one of wrap-session-key"),
        (("--caller", "x", "--operation", "sign-checksum"), "name the key with --key"),
        ((*ASKED, "--scheme", "x"), "--scheme must be one of"),
        ((*ASKED, "--claim", "x"), "--claim must be NAME=VALUE"),
        ((*ASKED, "--context", "colour=x"), "--context must be one of app_id"),
        ((*ASKED, "--at", "noon"), "--at must be a time"),
        ((*ASKED, "--at", "2026-11-23T09:00:00"), "--at must be a time with its offset"),
    ],
)
def test_usage(software: Place, arguments: tuple[str, ...], says: str) -> None:
    assert says in sentence(software.run("grants", "explain", "--config", str(software.config), *arguments), 2)


def test_check_looks_at_issuers(software: Place) -> None:
    oidc = (
        '[[listeners]]\naddress = "127.0.0.1:0"\nauth = "oidc"\ncertificate = "server.pem"\n'
        'certificate_key = "server-key.pem"\n[[issuers]]\nissuer = "https://ci.example"\naudiences = ["x"]\n'
        'jwks_file = "jwks.json"\n'
    )
    software.config.write_text(software.config.read_text() + oidc)
    done = software.run("check", "--config", str(software.config))
    assert "FAIL  issuer https://ci.example: issuer: " in done.stdout
    assert "jwks.json cannot be read" in sentence(software.run("serve", "--config", str(software.config)), 2)
