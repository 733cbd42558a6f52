"""The examples of docs/clients.md, typed as a reader types them, against the real service and a token."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from privyseal._channel import SERVICE_CONFIG
from privyseal.capgo import load_public_key
from privyseal_service.domain import errors
from tests.fakes.signing_server import Fault, signing_server
from tests.support import client_tools
from tests.support.needed import program
from tests.support.pki import CA
from tests.support.programs import CAPGO_SCHEMES, VECTORS, configuration, serving, write_pki
from tests.support.softhsm import generate_rsa_key, make_token

CHECKOUT = client_tools.CHECKOUT
CLIENTS = (CHECKOUT / "docs" / "clients.md").read_text()
KEY = "app-release"


def block(name: str) -> str:
    """The code block that a comment in docs/clients.md names."""
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", CLIENTS, re.DOTALL)[1]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    token = make_token(folder / "hsm", "clients")
    generate_rsa_key(token, KEY)
    write_pki(folder)
    with serving(folder, configuration({KEY: (token.uri(KEY), CAPGO_SCHEMES)}), token.environment) as running:
        yield running


class Reader:
    """A checkout's examples, as somebody has them who reads the document, and a zip to seal beside each."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(CHECKOUT / "proto", folder / "proto")
        self.examples = folder / "examples" / "clients"
        shutil.copytree(client_tools.EXAMPLES, self.examples, ignore=shutil.ignore_patterns("node_modules", "gen"))
        for example in ("node", "go"):
            with zipfile.ZipFile(self.examples / example / "app.zip", "w") as archive:
                archive.writestr("index.html", "<!doctype html>" * 1_000)
        self.zip = (self.examples / "go" / "app.zip").read_bytes()

    def types(
        self, script: str, example: str, environment: Mapping[str, str], *, programs: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in the folder of an example, with `programs` before all others."""
        search = [*([str(programs)] if programs else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.examples / example,
            env={**client_tools.go_environment(), **environment, "PATH": os.pathsep.join(search)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def node(reader):
    """The command that seals, in a folder where `npm ci` was run."""
    install, seal = block("node").splitlines()
    program("node")
    assert install == "npm ci"  # as client_tools runs it, once for all
    (reader.examples / "node" / "node_modules").symlink_to(client_tools.node_modules())
    return seal


@pytest.fixture(scope="module")
def go(reader):
    """The command that seals, in a folder where the stubs were made."""
    program("go")
    generate, seal = block("go").splitlines()
    made = reader.types(generate, "go", {})
    assert made.returncode == 0, made.stderr
    return seal


@pytest.fixture(params=["node", "go"])
def example(request):
    """An example's name, and the command that seals with it."""
    return request.param, request.getfixturevalue(request.param)


def test_it_seals_a_bundle_that_opens_as_on_a_device(reader, service, example):
    name, seal = example
    done = reader.types(seal, name, service.environment)
    assert done.returncode == 0, done.stderr
    sealed = json.loads(done.stdout)
    assert list(sealed) == ["checksum", "filename", "ivSessionKey"]
    folder = reader.examples / name
    (folder / "public.pem").write_text(service.privyseal("key", "show", KEY, "--format", "pkcs1").stdout)
    opened = service.privyseal(
        *("bundle", "decrypt", folder / sealed["filename"], sealed["ivSessionKey"]),
        *("--public-key", folder / "public.pem", "--checksum", sealed["checksum"], "--output", folder / "opened.zip"),
    )
    assert opened.returncode == 0, opened.stderr
    assert (folder / "opened.zip").read_bytes() == reader.zip


def test_a_refusal_is_one_line_with_the_request_id(reader, service, example):
    name, seal = example
    refused = reader.types(seal.replace(KEY, "another-key"), name, service.environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    code = {"node": "PERMISSION_DENIED", "go": "PermissionDenied"}[name]
    assert re.search(rf"^seal: {code}: no grant .*\(request [0-9a-f]{{32}}\)$", refused.stderr, re.MULTILINE)
    assert ("[NO_GRANT]" in refused.stderr) == (name == "go")  # node's gRPC brings no google.rpc messages


@pytest.fixture(scope="module")
def false_service(tmp_path_factory):
    """A server that a test makes lie or fail, and the environment of a job that trusts it."""
    folder, ca = tmp_path_factory.mktemp("false"), CA()
    ca.write(folder)
    server = ca.server()
    certificate, certificate_key = ca.issue(dns=["build.test.example"]).write(folder, "client")
    credentials = grpc.ssl_server_credentials([(server.key_pem, server.chain_pem)], ca.pem, require_client_auth=True)
    private_key = (VECTORS / "capgo-v3" / "private.pem").read_bytes()
    with signing_server(private_key, credentials=credentials) as running:
        running.name = KEY
        yield (
            running,
            {
                "PRIVYSEAL_SERVER": running.address,
                "PRIVYSEAL_CA": str(folder / "ca.pem"),
                "PRIVYSEAL_CERT": str(certificate),
                "PRIVYSEAL_CERT_KEY": str(certificate_key),
            },
        )


@pytest.mark.parametrize("method", ["WrapSessionKey", "SignChecksum"])
def test_an_answer_that_does_not_verify_is_not_used(reader, false_service, example, method):
    name, seal = example
    server, environment = false_service
    sealed = reader.examples / name / "app.zip_encrypted.zip"
    sealed.unlink(missing_ok=True)
    server.corrupt = {method}
    try:
        done = reader.types(seal, name, environment)
    finally:
        server.corrupt = set()
    assert (done.returncode, done.stdout) == (1, "")
    assert not sealed.exists()


def test_it_tries_again_what_may_go_well_in_a_moment(reader, false_service, example):
    name, seal = example
    server, environment = false_service
    for method in ("GetKey", "SignChecksum"):
        server.fail(method, Fault(grpc.StatusCode.UNAVAILABLE), Fault(grpc.StatusCode.CANCELLED))
    before = len(server.calls)
    done = reader.types(seal, name, environment)
    assert done.returncode == 0, done.stderr
    assert sorted(server.methods()[before:]) == ["GetKey"] * 3 + ["SignChecksum"] * 3 + ["WrapSessionKey"]


def test_grpcurl_signs_by_reflection(reader, service):
    install, *asking = block("grpcurl").splitlines()
    package, version = install.removeprefix("go install ").split("@")
    module = (client_tools.GRPCURL / "go.mod").read_text()
    assert f"tool {package}\n" in module
    assert f"{package.removesuffix('/cmd/grpcurl')} {version}" in module

    done = reader.types("\n".join(asking), "node", service.environment, programs=client_tools.grpcurl())
    assert done.returncode == 0, done.stderr
    listed, described, told = done.stdout.partition("privyseal.v1.SignChecksumRequest is a message")
    assert {"privyseal.v1.SigningService", "privyseal.v1.KeyService"} <= set(listed.split())
    assert ".privyseal.v1.SignatureScheme scheme = 3;" in told
    keys, answer = json_values(told[told.index("\n{\n") :])
    assert described
    assert [key["name"] for key in keys["keys"]] == [KEY]
    signature = base64.b64decode(answer["signature"])
    with service.client() as client:
        public_key = load_public_key(client.get_key(KEY).public_key.spki_pem)
    assert public_key.recover_data_from_signature(signature, PKCS1v15(), None) == hashlib.sha256(reader.zip).digest()


def json_values(text: str) -> list[dict]:
    decoder, values = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


def test_the_document_retries_as_our_own_clients_do():
    assert json.loads(block("retries")) == SERVICE_CONFIG


@pytest.mark.parametrize("example", ["node/seal.mjs", "go/main.go"])
def test_every_example_retries_as_our_own_clients_do(example):
    text = (client_tools.EXAMPLES / example).read_text()
    policy = SERVICE_CONFIG["methodConfig"][0]["retryPolicy"]
    assert len(policy) == 5
    for name, value in policy.items():
        assert re.search(rf'"?{name}"?:\s*{re.escape(json.dumps(value))}', text), name


def test_every_reason_that_the_service_gives_is_told():
    source = Path(errors.__file__).read_text()
    reasons = set(re.findall(r'Code\.[A-Z_]+,\s*"([A-Z_]+)"', source))
    paragraph = CLIENTS[CLIENTS.index("- `ErrorInfo`") : CLIENTS.index("- `RetryInfo`")]
    assert reasons == set(re.findall(r"`([A-Z_]{4,})`", paragraph))
    assert len(reasons) > 15
