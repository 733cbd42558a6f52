"""Calls with OIDC tokens."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.farm import BUILD, SIGN
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.pki import CA, Issued
from tests.support.refusals import refused
from tests.support.service import RunningService, secure_channel
from tests.support.tokens import ISSUER, SUBJECT, bearer, rsa_key, token


def test_a_token_signs(oidc_running: RunningService, pipeline: SigningServiceStub) -> None:
    assert pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(token())).signature
    decision = oidc_running.decisions.last
    assert (decision.caller, decision.grant, decision.proof.method) == (f"oidc:{ISSUER}:{SUBJECT}", "pipeline", "oidc")
    assert decision.proof.details["environment"] == "production"


def test_tokens_that_do_not(
    oidc_running: RunningService, pipeline: SigningServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller hears the same of each; the log says which it was."""
    shown = [token(exp=int(time.time()) - 60), token(aud="x"), token(kid="z"), token(rsa_key("b")), "x.y.z"]
    refusals = [refused(lambda t=t: pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(t))) for t in shown]  # type: ignore[misc]
    refusals.append(refused(lambda: pipeline.SignChecksum(SIGN, timeout=10)))
    twice = bearer(token()) * 2
    refusals.append(refused(lambda: pipeline.SignChecksum(SIGN, timeout=10, metadata=twice)))
    assert {str(refusal.words) for refusal in refusals} == {str(refusals[0].words)}
    assert refusals[0].code is grpc.StatusCode.UNAUTHENTICATED
    for why in (
        "expired",
        "another audience",
        "its kid is none",
        "not the key's",
        "cannot be parsed",
        "no authorization",
    ):
        assert why in caplog.text
    assert oidc_running.service.issues.counters.snapshot()["refusals", "UNAUTHENTICATED"] == len(refusals)
    assert not [each for each in shown if each in caplog.text]


def test_claims_without_a_grant(pipeline: SigningServiceStub) -> None:
    for changes in ({"environment": "staging"}, {"environment": None}, {"sub": "repo:octo-org/app:pull_request"}):
        metadata = bearer(token(**changes))
        assert refused(lambda m=metadata: pipeline.SignChecksum(SIGN, timeout=10, metadata=m)).reason == "NO_GRANT"  # type: ignore[misc]


def test_each_listener_has_its_own_proof(
    oidc_running: RunningService, signing_of: Callable[[int, Issued | None], SigningServiceStub], client: Issued
) -> None:
    """A certificate is nothing to a listener of tokens, and a token nothing to one of certificates."""
    with suppress(grpc.RpcError):
        signing_of(1, client).SignChecksum(SIGN, timeout=10)
    assert oidc_running.decisions.last.code.name == "UNAUTHENTICATED"
    signing_of(0, client).SignChecksum(SIGN, timeout=10, metadata=bearer(token()))
    assert oidc_running.decisions.last.caller == BUILD


@pytest.fixture
def signing_of(oidc_running: RunningService, ca: CA) -> Iterator[Callable[[int, Issued | None], SigningServiceStub]]:
    channels: list[grpc.Channel] = []

    def of(listener: int, shown: Issued | None) -> SigningServiceStub:
        channels.append(secure_channel(oidc_running.address(listener), ca, shown))
        return SigningServiceStub(channels[-1])

    yield of
    for channel in channels:
        channel.close()


def test_decisions_name_no_token(
    pipeline: SigningServiceStub, oidc_running: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = token()
    pipeline.SignChecksum(SIGN, timeout=10, metadata=bearer(shown))
    kept = repr(oidc_running.decisions.kept) + caplog.text + json.dumps(dict(oidc_running.service.issues.current))
    assert not [part for part in shown.split(".") if part in kept]
