"""The recipes of examples/ci: held against their systems' own schemas and linters, and against the real service."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click
import pytest
import tree_sitter_groovy
from tree_sitter import Language, Node, Parser

from privyseal import Client, SignatureScheme
from privyseal.commands import privyseal
from privyseal.errors import PermissionDeniedError, UnauthenticatedError
from tests.support.capgo_cli import make_app
from tests.support.needed import program
from tests.support.programs import RealService, clean_environment, serving, write_pki
from tests.support.softhsm import generate_rsa_key, make_token
from tests.support.tokens import jwk, key_set, rsa_key, token
from tests.support.zips import write_zip

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "ci"
PROGRAMS = Path(sys.executable).parent
CHECKSUM = hashlib.sha256(b"zip").digest()
FILES = ("github-actions.yml", "gitlab-ci.yml", "Jenkinsfile", "README.md")


def checked(*command: str, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAMS / command[0], *command[1:], file], capture_output=True, text=True, timeout=200)


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    """The recipe with one thing changed, to see that a check sees it."""
    text = (RECIPES / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return folder / name


@pytest.mark.parametrize(
    ("name", "schema", "old", "new"),
    [
        ("github-actions.yml", "vendor.github-workflows", "runs-on:", "runs_on:"),
        ("gitlab-ci.yml", "vendor.gitlab-ci", "aud: https", "audience: https"),
    ],
)
def test_a_recipe_has_its_systems_form(name, schema, old, new, tmp_path):
    check = ("check-jsonschema", "--builtin-schema", schema)
    done = checked(*check, file=RECIPES / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checked(*check, file=changed(tmp_path, name, old, new)).returncode == 1


def test_zizmor_finds_nothing_in_the_workflow(tmp_path):
    check = ("zizmor", "--offline", "--no-progress", "--persona", "auditor")
    done = checked(*check, file=RECIPES / "github-actions.yml")
    assert done.returncode == 0, done.stdout
    assert "No findings to report" in done.stdout
    unpinned = changed(
        tmp_path, "github-actions.yml", "checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "checkout@v5"
    )
    done = checked(*check, file=unpinned)
    assert done.returncode > 1
    assert "unpinned-uses" in done.stdout


# Jenkins

SECTIONS = {
    "pipeline": {"agent", "environment", "options", "stages", "post", "parameters", "triggers", "tools"},
    "stages": {"stage"},
    "stage": {"agent", "environment", "options", "stages", "steps", "when", "post", "input", "tools"},
}
"""Declarative syntax: what stands in what."""


def groovy(text: str) -> Node:
    """The parsed text. Raises ValueError with the line where it is not Groovy."""
    root = Parser(Language(tree_sitter_groovy.language())).parse(text.encode()).root_node
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            raise ValueError(f"not Groovy at line {node.start_point[0] + 1}")
        waiting += node.children
    return root


def calls(node: Node) -> Iterator[tuple[str, Node]]:
    """The names that stand in a block, each with its node."""
    for statement in node.named_children:
        called = statement.named_children[0] if statement.type == "expression_statement" else statement
        # `agent none` reads like the declaration of a variable.
        names = (called.child_by_field_name(field) for field in ("name", "left", "type"))
        name = next(filter(None, names), None)
        if name is not None:
            yield name.text.decode(), called


def declared(node: Node, kind: str) -> dict[str, list[Node]]:
    """The sections in one of `kind`. Raises ValueError where one has no place there."""
    body = node.child_by_field_name("body")
    found: dict[str, list[Node]] = {}
    for name, section in calls(body):
        if name not in SECTIONS[kind]:
            raise ValueError(f"{name} has no place in {kind}")
        found.setdefault(name, []).append(section)
    return found


def check_declarative(text: str) -> None:
    """Raise ValueError unless the text is one pipeline whose sections are where declarative syntax has them."""
    ((name, pipeline),) = calls(groovy(text))
    sections = declared(pipeline, "pipeline")
    if name != "pipeline" or not {"agent", "stages"} <= set(sections):
        raise ValueError("a pipeline has an agent and stages")
    for stage in declared(sections["stages"][0], "stages")["stage"]:
        if "steps" not in declared(stage, "stage"):
            raise ValueError("a stage has steps")


def test_the_jenkinsfile_is_a_declarative_pipeline():
    check_declarative((RECIPES / "Jenkinsfile").read_text())


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("npx @capgo/cli bundle upload", "'''", "not Groovy"),
        (
            "            steps {\n                unstash",
            "            step {\n                unstash",
            "step has no place",
        ),
        ("    agent none\n", "", "has an agent"),
        ("when {", "where {", "where has no place"),
    ],
)
def test_the_check_of_the_jenkinsfile_sees_what_is_wrong(old, new, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        check_declarative(changed(tmp_path, "Jenkinsfile", old, new).read_text())


def test_the_way_with_a_certificate_is_groovy():
    groovy(re.search(r"```groovy\n(.*?)```", (RECIPES / "README.md").read_text(), re.DOTALL)[1])


# The commands in them


def commands(name: str) -> list[list[str]]:
    """Every `privyseal …` in a recipe, as words, up to `--`."""
    text = re.sub(r"\\*\n\s*", " ", (RECIPES / name).read_text())
    return [shlex.split(found) for found in re.findall(r"(?:bin/|`|\s)privyseal ([a-z][^`#]*?) --(?=\s)", text)]


@pytest.mark.parametrize("name", FILES)
def test_every_command_in_a_recipe_exists(name):
    found = commands(name)
    assert found
    for verb, *words in found:
        command = privyseal.get_command(click.Context(privyseal), verb)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


# The service that they call


def test_the_document_on_tokens_says_the_same():
    ours = tomllib.loads((RECIPES / "server.toml").read_text())
    document = (RECIPES.parents[1] / "docs" / "oidc.md").read_text()
    told = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", document, re.DOTALL)]
    issuers = {issuer["issuer"]: issuer for part in told for issuer in part.get("issuers", [])}
    assert len(issuers) == 3
    for issuer in ours["issuers"]:
        for setting in ("audiences", "jwks_url"):
            assert issuer[setting] == issuers[issuer["issuer"]][setting]
    grants = {grant["name"]: grant for part in told for grant in part.get("grants", [])}
    for grant in ours["grants"][:3]:
        issuer = next(name for name in issuers if grant["callers"][0].startswith(f"oidc:{name}:"))
        assert grants[grant["name"]]["callers"][0].startswith(f"oidc:{issuer}:")
    assert grants["app release, Jenkins"] == ours["grants"][2]


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[tuple[RealService, str]]:
    """The service with server.toml, but for its ports, its token's place, and where the issuers' keys are."""
    folder = tmp_path_factory.mktemp("recipes")
    hsm = make_token(folder / "hsm", "recipes")
    generate_rsa_key(hsm, "app-release")
    write_pki(folder)
    text = (RECIPES / "server.toml").read_text()
    text = re.sub(r'uri = "pkcs11:[^"]*"', f'uri = "{hsm.uri("app-release")}"', text)
    text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", text)
    text = text.replace("audit.build.example/replica-1", "audit.test.example/replica-1")
    (folder / "jwks.json").write_bytes(key_set(jwk(rsa_key(), "a", alg="RS256", use="sig")))
    text, issuers = re.subn(r'jwks_url = "[^"]*"', 'jwks_file = "jwks.json"', text)
    assert issuers == 3
    with serving(folder, text, hsm.environment) as running:
        # The first listener is the one for tokens.
        yield running, running.address


GITHUB = {
    "iss": "https://token.actions.githubusercontent.com",
    "aud": "privyseal.build.example",
    "sub": "repo:octo-org@123456/app@456789:environment:production",
    "repository": "octo-org/app",
    "repository_id": "456789",
    "repository_owner_id": "123456",
    "ref": "refs/tags/v1.4.2",
    "workflow_ref": "octo-org/app/.github/workflows/release.yml@refs/tags/v1.4.2",
    "environment": "production",
    "run_id": "1",
    "sha": "0" * 40,
}
GITLAB = {
    "iss": "https://gitlab.com",
    "aud": "https://privyseal.build.example",
    "sub": "project_path:my-group/app:ref_type:tag:ref:v1.4.2",
    "namespace_id": "72",
    "project_path": "my-group/app",
    "project_id": "20",
    "ref": "v1.4.2",
    "ref_type": "tag",
    "ref_protected": "true",
    "environment": "production",
    "environment_protected": "true",
    "job_id": "3",
    "sha": "0" * 40,
    "repository": None,
}
JENKINS = {
    "iss": "https://jenkins.build.example/oidc/job/release",
    "aud": "https://privyseal.build.example",
    "sub": "https://jenkins.build.example/job/release/job/app/job/v1.4.2/",
    "build_number": 7,
    **dict.fromkeys(("nbf", "jti", "repository", "ref", "environment")),
}
SYSTEMS = {"GitHub": GITHUB, "GitLab": GITLAB, "Jenkins": JENKINS}


def sign(service, bearer: str) -> bytes:
    running, address = service
    with Client(address, ca=running.folder / "ca.pem", token=bearer, key="app-release") as client:
        return client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3).signature


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_service_takes_the_recipes_job(service, system):
    assert len(sign(service, token(**SYSTEMS[system]))) == 256


@pytest.mark.parametrize(
    ("claims", "changes"),
    [
        (GITHUB, {"sub": "repo:octo-org@123456/app@456789:pull_request"}),
        (GITHUB, {"ref": "refs/heads/main"}),
        (GITHUB, {"workflow_ref": "octo-org/app/.github/workflows/other.yml@refs/tags/v1.4.2"}),
        (GITHUB, {"repository_id": "456780"}),
        (GITLAB, {"sub": "project_path:my-group/app:ref_type:branch:ref:main"}),
        (GITLAB, {"sub": "project_path:stranger/app:ref_type:tag:ref:v1.4.2", "project_id": "21"}),
        (GITLAB, {"ref_protected": "false"}),
        (GITLAB, {"environment": None, "environment_protected": None}),
        (JENKINS, {"sub": "https://jenkins.build.example/job/app/job/PR-7/"}),
        (JENKINS, {"sub": "https://jenkins.build.example/job/release/job/other/job/v1.4.2/"}),
    ],
)
def test_the_service_refuses_another_job(service, claims, changes):
    with pytest.raises(PermissionDeniedError):
        sign(service, token(**{**claims, **changes}))


@pytest.mark.parametrize(
    ("claims", "changes"),
    [
        (GITHUB, {"repository_owner_id": "999"}),
        (GITHUB, {"aud": "https://github.com/octo-org"}),
        (GITHUB, {"iat": int(time.time()) - 1_200}),
        (GITLAB, {"namespace_id": "73"}),
        (JENKINS, {"iss": "https://jenkins.build.example/oidc"}),
        (JENKINS, {"sub": "https://jenkins.build.example/job/release/job/app/job/release%252F1/"}),
    ],
)
def test_the_service_does_not_know_another_owner(service, claims, changes):
    with pytest.raises(UnauthenticatedError):
        sign(service, token(**{**claims, **changes}))


JQ = """#!{python}
import json, sys
assert sys.argv[1:] == ["--exit-status", "--raw-output", ".value"]
print(json.load(sys.stdin)["value"])
"""


@contextmanager
def github() -> Iterator[str]:
    """What a job of GitHub asks for its token; the address, which has a query already."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (audience,) = parse_qs(urlsplit(self.path).query)["audience"]
            said = f'{{"value": "{token(**{**GITHUB, "aud": audience})}"}}'.encode()
            self.send_response(200 if self.headers["Authorization"] == "bearer request-token" else 401)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token?api-version=2.0"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def release_step() -> str:
    """The command of the workflow that signs and uploads, as one line."""
    text = (RECIPES / "github-actions.yml").read_text()
    return " ".join(re.search(r"run: >-\n((?: {10}.*\n)+)", text)[1].split())


def test_the_release_step_signs_with_githubs_token(service, with_node, tmp_path):
    """The step as it stands, but for what needs Capgo's service: it seals a bundle in place of an upload."""
    running, address = service
    program("curl")
    with Client(address, ca=running.folder / "ca.pem", token=token(**GITHUB)) as client:
        app = make_app(tmp_path, client.get_key("app-release").public_key.pkcs1_pem, "capgo-v3")
    write_zip(tmp_path / "app.zip", {"index.html": b"<!doctype html>"})
    (tmp_path / "ci").mkdir()
    shutil.copy(RECIPES / "github-token", tmp_path / "ci")
    shutil.copy(running.folder / "ca.pem", tmp_path / "ci" / "privyseal-ca.pem")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, text in (
        ("jq", JQ.format(python=sys.executable)),
        ("npx", f'#!/bin/sh\nshift\nexec node "{app.script}" "$@"\n'),
    ):
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    environment = {
        **clean_environment(),
        "PATH": os.pathsep.join([str(bin_folder), str(PROGRAMS), os.environ["PATH"]]),
        "no_proxy": "127.0.0.1",
        "PRIVYSEAL_SERVER": address,
        "PRIVYSEAL_CA": "ci/privyseal-ca.pem",
        "CAPGO_DISABLE_TELEMETRY": "1",
        "CI": "1",
    }
    step, upload, _ = release_step().partition("bundle upload")
    assert upload
    checksum = hashlib.sha256((tmp_path / "app.zip").read_bytes()).hexdigest()

    def run(request_token: str) -> subprocess.CompletedProcess[str]:
        with github() as url:
            asked = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": request_token}
            return subprocess.run(
                ["bash", "-e", "-c", f"{step} bundle encrypt app.zip {checksum} --json"],
                cwd=tmp_path,
                env={**environment, **asked},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=200,
            )

    done = run("request-token")
    assert done.returncode == 0, done.stderr
    sealed = json.loads(done.stdout)
    opened = running.privyseal(
        *("bundle", "decrypt", tmp_path / sealed["filename"], sealed["ivSessionKey"]),
        *("--public-key", tmp_path / "public.pem", "--checksum", sealed["checksum"]),
    )
    assert opened.returncode == 0, opened.stderr

    refused = run("another")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "github-token ended with" in refused.stderr
