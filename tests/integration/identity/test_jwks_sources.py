"""Where issuers' keys come from: files that change, servers that are away, slow, wrong or silent."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.identity.jwks_sources import FileSource, SourceError, UrlSource, fetch
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import Counters
from tests.support.pki import CA
from tests.support.tokens import ISSUER, JwksServer, issuer_settings, jwk, key_set, rsa_key

ONE, TWO = key_set(jwk(rsa_key(), "a")), key_set(jwk(rsa_key(), "a"), jwk(rsa_key("b"), "b"))
ABOUT = f"issuer {ISSUER}"


def until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end_s, "it did not become true"
        time.sleep(0.005)


@pytest.fixture
def issues() -> ActiveIssues:
    return ActiveIssues(Counters())


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with JwksServer(ONE).running() as running:
        yield running


def by_url(url: str, **more: object) -> IssuerConfig:
    said = {**issuer_settings("x", **more), "jwks_url": url}
    del said["jwks_file"]
    return IssuerConfig.model_validate_json(json.dumps(said))


def by_file(file: Path) -> IssuerConfig:
    return IssuerConfig.model_validate_json(json.dumps(issuer_settings(file)))


# --- files ---


def test_a_file_that_changes(tmp_path: Path, issues: ActiveIssues) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(ONE)
    source = FileSource(by_file(file), issues)
    source.start()
    assert list(source.now.keys) == ["a"]
    file.write_bytes(TWO)
    source.look()
    source.look()
    assert list(source.now.keys) == ["a", "b"]
    file.write_bytes(b"{")
    source.look()
    source.look()
    assert list(source.now.keys) == ["a", "b"]
    assert "is no JWK set" in issues.current[ABOUT]
    assert issues.counters.snapshot()["issuer_refreshes", "failed"] == 1
    file.write_bytes(ONE)
    source.look()
    source.look()
    assert (list(source.now.keys), issues.current) == (["a"], {})


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), (b"{}", "is no JWK set")])
def test_a_file_that_cannot_be_used(tmp_path: Path, issues: ActiveIssues, content: bytes | None, says: str) -> None:
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SourceError, match=says):
        FileSource(by_file(file), issues).start()


# --- servers ---


def test_an_unknown_kid_brings_one_fetch_and_no_more(server: JwksServer, issues: ActiveIssues) -> None:
    source = UrlSource(by_url(server.url), issues, None, miss_every_s=0.3)
    source.start()
    try:
        source.wait(20)
        assert list(source.now.keys) == ["a"]
        server.body = TWO
        began_s = time.monotonic()
        for _ in range(1000):
            source.miss()
        until(lambda: "b" in source.now.keys)
        assert server.asked <= 2 + int((time.monotonic() - began_s) / 0.3)
    finally:
        source.close()


def test_keys_outlive_their_server_for_the_grace_and_no_longer(server: JwksServer, issues: ActiveIssues) -> None:
    clock = [1000.0]
    config = by_url(server.url, refresh_s=60, offline_grace_s=100)
    source = UrlSource(config, issues, None, clock=lambda: clock[0], miss_every_s=0.01)
    source.start()
    try:
        source.wait(20)
        server.behaviour = server.refuse
        clock[0] += 159
        source.miss()
        until(lambda: ABOUT in issues.current)
        assert "answers with status 503; the keys that it gave last still count" in issues.current[ABOUT]
        assert list(source.now.keys) == ["a"]
        clock[0] += 2
        assert source.now.keys == {}
        server.behaviour = server.answer
        source.miss()
        until(lambda: source.now.keys)
        until(lambda: not issues.current)
    finally:
        source.close()


def test_a_bad_answer_leaves_the_keys(server: JwksServer, issues: ActiveIssues) -> None:
    source = UrlSource(by_url(server.url), issues, None, miss_every_s=0.01)
    source.start()
    try:
        source.wait(20)
        server.body = b"<html>"
        source.miss()
        until(lambda: "is no JWK set" in issues.current.get(ABOUT, ""))
        assert list(source.now.keys) == ["a"]
    finally:
        source.close()


def test_a_defect_does_not_end_the_search(
    server: JwksServer, issues: ActiveIssues, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = UrlSource(by_url(server.url), issues, None, miss_every_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr("privyseal_service.identity.jwks_sources.parse_key_set", lambda *_: 1 / 0)
        source.start()
        source.wait(20)
        assert "could not be read; none of its keys are known" in issues.current[ABOUT]
    source.miss()
    until(lambda: source.now.keys)
    source.close()


def test_keys_are_kept_over_a_restart(
    server: JwksServer, issues: ActiveIssues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]

    def begin() -> UrlSource:
        source = UrlSource(by_url(server.url), issues, tmp_path / "issuers", clock=lambda: clock[0])
        source.start()
        source.wait(20)
        source.close()
        return source

    begin()
    (cache,) = (tmp_path / "issuers").iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    server.behaviour = server.refuse
    assert list(begin().now.keys) == ["a"]
    cache.chmod(0o666)
    assert begin().now.keys == {}, "others could have written it"
    cache.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: os.getuid() + 1)
        assert begin().now.keys == {}, "it is another user's"
    clock[0] += 100_000
    assert begin().now.keys == {}
    cache.write_text("{")
    assert begin().now.keys == {}


def test_the_first_keys_are_not_waited_for_for_ever(server: JwksServer, issues: ActiveIssues) -> None:
    server.behaviour = server.hang
    source = UrlSource(by_url(server.url), issues, None)
    source.start()
    source.wait(0.05)
    assert source.now.keys == {}
    source.close()


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_server_that_says_nothing_or_too_little_is_cut_off(server: JwksServer, behaviour: str) -> None:
    server.behaviour = getattr(server, behaviour)
    with pytest.raises(SourceError, match=r"no whole answer within 0\.2 s"):
        fetch(server.url, answer_s=0.2)


def test_what_is_late_before_there_is_a_connection_is_cut_off(
    server: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is looked up for long, or addresses that are tried in vain, and then a server that drips."""
    connect, server.behaviour = socket.create_connection, server.drip

    def connect_late(*arguments: Any, **more: Any) -> socket.socket:
        time.sleep(0.3)
        return connect(*arguments, **more)

    monkeypatch.setattr(socket, "create_connection", connect_late)
    with pytest.raises(SourceError, match=r"no whole answer within 0\.2 s"):
        fetch(server.url, answer_s=0.2)


def test_a_redirect_is_not_followed(server: JwksServer) -> None:
    elsewhere = threading.Event()

    def redirect(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/elsewhere":
            elsewhere.set()
        request.send_response(302)
        request.send_header("Location", "/elsewhere")
        request.end_headers()

    server.behaviour = redirect
    with pytest.raises(SourceError, match="status 302"):
        fetch(server.url)
    assert not elsewhere.is_set()


def test_an_answer_without_end(server: JwksServer) -> None:
    server.body = b" " * 300_000
    with pytest.raises(SourceError, match="is longer than"):
        fetch(server.url)


def test_nobody_is_there() -> None:
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/keys")


def test_tls_is_of_the_ca_that_is_named(server: JwksServer, tmp_path: Path) -> None:
    ca = CA()
    certificate, key = ca.server().write(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = JwksServer(ONE)
    tls._server.socket = context.wrap_socket(tls._server.socket, server_side=True)
    url = f"https://127.0.0.1:{tls.port}/keys"
    with tls.running():
        assert fetch(url, ca.write(tmp_path, "ca")) == ONE
        for trusted in (None, CA().write(tmp_path, "other")):
            with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
                fetch(url, trusted)
        with pytest.raises(SourceError, match="cannot be used to fetch"):
            fetch(url, tmp_path / "none.pem")
