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
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from privyseal._channel import SERVICE_CONFIG
from privyseal_service import errors
from tests.support import client_tools
from tests.support.programs import CAPGO_SCHEMES, configuration, serving, write_pki
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
    """A checkout's examples, as somebody has them who reads the document, and a zip to seal."""

    def __init__(self, folder: Path, service) -> None:
        self.service = service
        shutil.copytree(CHECKOUT / "proto", folder / "proto")
        left_out = shutil.ignore_patterns("node_modules", "gen")
        self.examples = folder / "examples" / "clients"
        shutil.copytree(client_tools.EXAMPLES, self.examples, ignore=left_out)
        self.zip = b""

    def types(self, script: str, example: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script in the folder of an example, which has the zip."""
        with zipfile.ZipFile(self.examples / example / "app.zip", "w") as archive:
            archive.writestr("index.html", "<!doctype html>" * 1_000)
        self.zip = (self.examples / example / "app.zip").read_bytes()
        search = [*([str(path)] if path else []), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = {**client_tools.go_environment(), **self.service.environment, "PATH": os.pathsep.join(search)}
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.examples / example,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def public_key(self):
        with self.service.client() as client:
            return load_pem_public_key(client.get_key(KEY).public_key.spki_pem.encode())

    def opens(self, example: str, done: subprocess.CompletedProcess[str]) -> None:
        """What the example printed and wrote opens as a device opens it."""
        assert done.returncode == 0, done.stderr
        sealed = json.loads(done.stdout)
        assert list(sealed) == ["checksum", "filename", "ivSessionKey"]
        folder = self.examples / example
        public_key = folder / "public.pem"
        public_key.write_text(self.service.privyseal("key", "show", KEY, "--format", "pkcs1").stdout)
        opened = self.service.privyseal(
            *("bundle", "decrypt", folder / sealed["filename"], sealed["ivSessionKey"]),
            *("--public-key", public_key, "--checksum", sealed["checksum"], "--output", folder / "opened.zip"),
        )
        assert opened.returncode == 0, opened.stderr
        assert (folder / "opened.zip").read_bytes() == self.zip


@pytest.fixture
def reader(tmp_path, service):
    return Reader(tmp_path, service)


def test_node_seals_a_bundle(reader):
    install, seal = block("node").splitlines()
    assert install == "npm ci"  # as client_tools does it, once for all runs
    (reader.examples / "node" / "node_modules").symlink_to(client_tools.node_modules())
    client_tools.program("node")
    reader.opens("node", reader.types(seal, "node"))

    refused = reader.types(seal.replace(KEY, "another-key"), "node")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.search(r"^seal: PERMISSION_DENIED: no grant .* \(request [0-9a-f]{32}\)$", refused.stderr, re.MULTILINE)


def test_go_seals_a_bundle(reader):
    client_tools.program("go")
    generate, seal = block("go").splitlines()
    reader.opens("go", reader.types(f"{generate}\n{seal}", "go"))

    refused = reader.types(seal.replace(KEY, "another-key"), "go")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.search(
        r"PermissionDenied: no grant .* \[NO_GRANT\] \(request [0-9a-f]{32}\)$", refused.stderr, re.MULTILINE
    )


def test_grpcurl_signs_by_reflection(reader):
    install, *asking = block("grpcurl").splitlines()
    package, version = install.removeprefix("go install ").split("@")
    module = (client_tools.GRPCURL / "go.mod").read_text()
    assert f"tool {package}\n" in module
    assert f"{package.removesuffix('/cmd/grpcurl')} {version}" in module

    done = reader.types("\n".join(asking), "node", path=client_tools.grpcurl())
    assert done.returncode == 0, done.stderr
    listed, described, told = done.stdout.partition("privyseal.v1.SignChecksumRequest is a message")
    assert {"privyseal.v1.SigningService", "privyseal.v1.KeyService"} <= set(listed.split())
    assert ".privyseal.v1.SignatureScheme scheme = 3;" in told
    keys, answer = json_values(told[told.index("\n{\n") :])
    assert described
    assert [key["name"] for key in keys["keys"]] == [KEY]
    signature = base64.b64decode(answer["signature"])
    recovered = reader.public_key().recover_data_from_signature(signature, PKCS1v15(), None)
    assert recovered == hashlib.sha256(reader.zip).digest()


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
