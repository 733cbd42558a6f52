"""Tokens from end to end: both real programs, a key in a SoftHSM token, an issuer whose keys are in a file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import (
    CAPGO_SCHEMES,
    VECTORS,
    RealService,
    clean_environment,
    configuration,
    serving,
    write_pki,
)
from tests.support.softhsm import import_rsa_key, make_token
from tests.support.tokens import ISSUER, SUBJECT, issuer_settings, jwk, key_set, rsa_key, token

PRIVYSEAL = Path(sys.executable).parent / "privyseal"
CHECKSUM = hashlib.sha256(b"zip").hexdigest()
SIGN = ("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3")


@dataclass
class Pipeline:
    """A running service with a listener of tokens, and how a job of a pipeline calls it."""

    service: RealService
    address: str

    def job(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the client program as the job does: without a certificate."""
        environment = {"PRIVYSEAL_SERVER": self.address, "PRIVYSEAL_CA": str(self.service.folder / "ca.pem")}
        return subprocess.run(
            [PRIVYSEAL, *arguments],
            env={**clean_environment(), **environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )


def extra(jwks: Path) -> str:
    said = issuer_settings(jwks)
    return f"""
[[listeners]]
address = "127.0.0.1:0"
auth = "oidc"
certificate = "server.pem"
certificate_key = "server-key.pem"
[[issuers]]
issuer = "{said["issuer"]}"
audiences = {said["audiences"]}
jwks_file = "{said["jwks_file"]}"
claims = {said["claims"]}
[[grants]]
name = "pipeline"
callers = ["oidc:{ISSUER}:repo:octo-org/app:ref:refs/heads/*"]
claims = {{ environment = "production" }}
keys = ["demo"]
operations = ["wrap-session-key", "sign-checksum"]
[log]
level = "debug"
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("pipeline")
    hsm = make_token(folder / "hsm", "pipeline")
    import_rsa_key(hsm, "demo", VECTORS / "capgo-v3" / "private.pem", id="01")
    write_pki(folder)
    (folder / "jwks.json").write_bytes(key_set(jwk(rsa_key(), "a")))
    text = configuration({"demo": (hsm.uri("demo"), CAPGO_SCHEMES)}, extra=extra(folder / "jwks.json"))
    with serving(folder, text, hsm.environment) as service:
        assert service.process.stdout is not None
        words = service.process.stdout.readline().split()
        assert words[:2] == ["listening", "oidc"]
        yield Pipeline(service, words[2])


def signed(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the job has its signature."""
    assert done.returncode == 0, done.stderr
    return bool(done.stdout.strip())


def test_a_token_on_the_command_line_or_in_the_environment(pipeline: Pipeline) -> None:
    assert signed(pipeline.job(*SIGN, "--token", token()))
    assert signed(pipeline.job(*SIGN, PRIVYSEAL_TOKEN=token()))


def test_a_token_file_that_is_read_again(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token(exp=int(time.time()) - 100))
    refused = pipeline.job(*SIGN, "--token-file", str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "could not be authenticated" in refused.stderr
    file.write_text(token() + "\n")
    assert signed(pipeline.job(*SIGN, "--token-file", str(file)))
    assert signed(pipeline.job(*SIGN, PRIVYSEAL_TOKEN_FILE=str(file)))


def test_a_command_that_prints_one(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token())
    assert signed(pipeline.job(*SIGN, "--token-command", f"cat {tmp_path}/token"))


def test_the_whole_of_a_build(pipeline: Pipeline, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as made:
        made.writestr("index.html", "<html></html>")
    seal = ("bundle", "encrypt", str(tmp_path / "app.zip"), "--format", "capgo-v3", "--json")
    assert '"ivSessionKey"' in pipeline.job(*seal, PRIVYSEAL_TOKEN=token()).stdout


@pytest.mark.parametrize(
    "changes",
    [{"environment": "staging"}, {"sub": "repo:octo-org/app:pull_request"}, {"sub": "repo:evil/app:ref:refs/heads/a"}],
)
def test_another_pipeline_is_refused(pipeline: Pipeline, changes: dict[str, object]) -> None:
    done = pipeline.job(*SIGN, PRIVYSEAL_TOKEN=token(**changes))
    assert done.returncode == 1
    assert "no grant allows this call" in done.stderr


def records(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The decisions on record, the last one first: a job looks at the key before it asks for a signature."""
    segments = (pipeline.service.folder / "audit" / "segments").rglob("*.jsonl")
    found = [json.loads(line) for file in segments for line in file.read_bytes().splitlines()]
    return [record for record in reversed(found) if record["kind"] == "decision"]


def test_the_record_says_whose_token_it_was(pipeline: Pipeline) -> None:
    """The issuer, the subject and the claims that matter: of a call that was allowed, of one without a grant, and of
    one with an old token."""
    refs = [f"refs/heads/{name}" for name in ("signed", "staging", "expired")]
    signature = pipeline.job(*SIGN, PRIVYSEAL_TOKEN=token(ref=refs[0])).stdout.strip()
    pipeline.job(*SIGN, PRIVYSEAL_TOKEN=token(ref=refs[1], environment="staging"))
    pipeline.job(*SIGN, PRIVYSEAL_TOKEN=token(ref=refs[2], exp=int(time.time()) - 100))
    proven = [record for record in records(pipeline) if record["caller"].get("proof", {}).get("type") == "token"]
    signed, staging, expired = (
        next(record for record in proven if record["caller"]["proof"]["claims"]["ref"] == ref) for ref in refs
    )
    claims = {"repository": "octo-org/app", "ref": refs[0], "environment": "production"}
    proof = {"type": "token", "issuer": ISSUER, "subject": SUBJECT, "claims": claims}
    assert signed["caller"] == {"name": f"oidc:{ISSUER}:{SUBJECT}", "proof": proof}
    assert (signed["outcome"], signed["grant"], signed["key"]) == ("answered", "pipeline", "demo")
    assert signed["signature_sha256"] == hashlib.sha256(bytes.fromhex(signature)).hexdigest()
    assert (staging["outcome"], staging["reason"]) == ("denied", "NO_GRANT")
    assert staging["caller"]["proof"]["claims"]["environment"] == "staging"
    assert (expired["caller"]["name"], expired["code"]) == ("", "UNAUTHENTICATED")


def test_no_token_is_in_any_output_nor_on_any_disk(pipeline: Pipeline, tmp_path: Path) -> None:
    """At the level of most words: not one of those that were good, nor of those that were not."""
    shown = [
        token(),
        token(exp=int(time.time()) - 100),
        token(aud="another"),
        token(rsa_key("b")),
        token(kid="unknown"),
        token(environment="staging"),
    ]
    (tmp_path / "token").write_text(shown[0])
    outputs = [pipeline.job(*SIGN, PRIVYSEAL_TOKEN=each) for each in shown]
    outputs.append(pipeline.job(*SIGN, "--token-command", f"cat {tmp_path}/token"))
    outputs.append(pipeline.job(*SIGN, "--token", shown[1]))
    said = "".join(done.stdout + done.stderr for done in outputs).encode()
    folder = pipeline.service.folder
    written = [file for file in folder.rglob("*") if file.is_file() and "hsm" not in file.parts]
    assert folder / "server.log" in written
    assert any("audit" in file.parts and file.suffix == ".jsonl" for file in written)
    haystack = said + b"".join(file.read_bytes() for file in written)
    assert f"oidc:{ISSUER}:{SUBJECT}".encode() in haystack
    assert b'"environment":"production"' in haystack
    # The header is the same in all and says nothing; a claim set or a signature would be the token.
    parts = {part for each in shown for part in each.split(".")[1:]}
    assert not [part for part in parts if part.encode() in haystack or part[:40].encode() in haystack]


def test_each_listener_has_a_port_of_its_own(pipeline: Pipeline) -> None:
    """Both are configured with port 0: on a shared one, half of the calls would come to the wrong listener."""
    assert pipeline.address != pipeline.service.address
    for _ in range(8):
        assert signed(pipeline.service.privyseal(*SIGN))
    certificate_alone = pipeline.service.privyseal(*SIGN, env={"PRIVYSEAL_SERVER": pipeline.address})
    assert (certificate_alone.returncode, certificate_alone.stdout) == (1, "")
