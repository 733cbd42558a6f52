"""Signatures for other updaters, by the service with a key in a token and one in AWS KMS, checked by the updaters' own
published packages, or by openssl."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support import aws_environment, ministack, updater_tools
from tests.support.programs import VECTORS, RealService, configuration, serving, write_pki
from tests.support.softhsm import import_rsa_key, make_token

pytestmark = pytest.mark.usefixtures("with_node")

HERE = updater_tools.LOCKED
EXAMPLES = Path(__file__).parents[2] / "examples"
PRIVATE_PEM = VECTORS / "capgo-v3" / "private.pem"
PKCS1, PSS = "rsassa-pkcs1-v1_5-sha256", "rsassa-pss-sha256"


@dataclass(frozen=True)
class Signing:
    """A key at the service, by its name there. `private_pem` is the same key as a file, for the updaters' own signing;
    AWS KMS gives none out."""

    service: RealService
    key: str
    public_pem: Path
    private_pem: Path | None

    def privyseal(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """Run the client with the key, and return what it printed."""
        named = {"PRIVYSEAL_KEY": self.key, **(env or {})}
        done = self.service.privyseal(*arguments, cwd=cwd, env=named)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One service with a key in a SoftHSM token, imported from a file, and one that AWS KMS made."""
    folder = tmp_path_factory.mktemp("service")
    token = make_token(folder / "hsm", "releases")
    import_rsa_key(token, "token", PRIVATE_PEM, id="01")
    write_pki(folder)
    with ministack.running() as aws, pytest.MonkeyPatch.context() as environment:
        aws_environment.isolate(environment, folder, ministack.ACCOUNT)
        cloud = f"awskms:///{aws.create_key()}?endpoint={aws.endpoint}"
        keys = {"token": (token.uri("token"), (PKCS1, PSS)), "cloud": (cloud, (PKCS1, PSS))}
        with serving(folder, configuration(keys), token.environment) as running:
            yield running


@pytest.fixture(scope="module", params=["token", "cloud"])
def signing(request, service, tmp_path_factory) -> Signing:
    public_pem = tmp_path_factory.mktemp("public") / "public.pem"
    made = Signing(service, request.param, public_pem, PRIVATE_PEM if request.param == "token" else None)
    public_pem.write_text(made.privyseal("key", "show", request.param, "--format", "spki", cwd=public_pem.parent))
    return made


@pytest.fixture(scope="module")
def packages() -> Path:
    return updater_tools.install()


def node(packages: Path, script: str, *arguments: str | Path) -> str:
    """Run a script beside the updaters' packages, and return what it printed."""
    done = subprocess.run(
        ["node", HERE / script, *map(str, arguments)], cwd=packages, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestExpo:
    def test_expo_accepts_certificate_request_and_signature(self, signing, packages, tmp_path):
        manifest = b'{"id":"0198-x","runtimeVersion":"1.0","assets":[],"extra":{"name":"\xc3\xbc"}}\r\n'
        (tmp_path / "manifest.json").write_bytes(manifest)
        make = ["key", "certificate", "--code-signing", "--subject", "CN=Example App,O=Example"]
        signing.privyseal(*make, "--days", "30", "--output", "certificate.pem", cwd=tmp_path)
        signing.privyseal(*make, "--csr", "--output", "app.csr", cwd=tmp_path)
        header = signing.privyseal(
            "sign", "expo", "manifest.json", "--keyid", 'm"1', "--certificate", "certificate.pem", cwd=tmp_path
        )
        (tmp_path / "header").write_text(header)
        names = ("certificate.pem", "app.csr", "manifest.json", "header")
        own = [signing.private_pem] if signing.private_pem else []
        answer = json.loads(node(packages, "expo.mjs", *(tmp_path / name for name in names), *own))
        assert answer == {
            "commonName": "Example App",
            "requestCommonName": "Example App",
            "keyid": 'm"1',
            "alg": "rsa-v1_5-sha256",
            "verifies": True,
            "verifiesAnother": False,
            **({"same": True} if own else {}),
        }

        openssl("req", "-in", tmp_path / "app.csr", "-noout", "-verify")
        pem = tmp_path / "certificate.pem"
        openssl("verify", "-check_ss_sig", "-x509_strict", "-CAfile", pem, pem)
        text = openssl("x509", "-in", pem, "-noout", "-text")
        for said in ("Digital Signature", "Code Signing", "sha256WithRSAEncryption", "Version: 3"):
            assert said in text
        assert openssl("x509", "-in", pem, "-noout", "-pubkey") == signing.public_pem.read_text()


class TestCapawesome:
    def test_it_is_what_the_cli_and_a_device_make_of_it(self, signing, packages, tmp_path):
        archive = VECTORS / "capgo-v3" / "bundle.zip"
        signature = signing.privyseal("sign", "capawesome", archive, "--receipt", "receipt.json", cwd=tmp_path)
        (tmp_path / "signature").write_text(signature)
        log_key = signing.service.folder / "audit.vkey"
        check = ("audit", "check", "receipt.json", "--log-key", log_key, "--signature", signature.strip())
        signing.privyseal(*check, cwd=tmp_path)
        own = [signing.private_pem] if signing.private_pem else []
        answer = json.loads(node(packages, "capawesome.mjs", archive, signing.public_pem, tmp_path / "signature", *own))
        assert answer == {
            "checksum": sha256(archive.read_bytes()).hexdigest(),
            "verifies": True,
            "signature": signature.strip() if own else None,
        }


def deploy(packages: Path, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Let the published CLI deploy to folders, and what it would have written into a database to bundle.json."""
    for name, data in {"index.android.bundle": b"app()", "a.png": b"png", "assets/\xfc b.json": b"{}"}.items():
        (folder / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "build" / name).write_bytes(data)
    (folder / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    shutil.copy(HERE / "hot-updater.config.mjs", folder)
    script = packages / "node_modules" / "hot-updater" / "dist" / "index.mjs"
    return subprocess.run(
        ["node", "--import", (HERE / "without_oxc.mjs").as_uri(), script, "deploy", "-p", "android", "-t", "1.0.0"],
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )


def deployed(packages: Path, folder: Path, **env: str) -> dict[str, str]:
    """The record of a bundle that was deployed."""
    done = deploy(packages, folder, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "bundle.json").read_text())


def served(folder: Path, name: str) -> Path:
    (found,) = (folder / "served" / "bundles").glob(f"*/{name}")
    return found


@pytest.fixture(scope="module")
def unsigned(packages, tmp_path_factory) -> Path:
    """A deployment without signing."""
    folder = tmp_path_factory.mktemp("unsigned")
    deployed(packages, folder)
    return folder


def assert_held(packages: Path, public_pem: Path, manifest: Path, hashes: Mapping[Path, str]) -> None:
    """A device takes the files, each with its hash, and the assets of the manifest."""
    files = [f"{path}={value}" for path, value in hashes.items()]
    answer = json.loads(node(packages, "hot_updater.mjs", public_pem, manifest, *files))
    assert answer == {
        "files": [True] * len(hashes),
        "assets": dict.fromkeys(("index.android.bundle", "a.png", "assets/\xfc b.json"), True),
    }


class TestHotUpdater:
    def test_devices_take_hashes_and_manifest_which_deploy_makes_the_same(self, signing, packages, unsigned, tmp_path):
        manifest = Path(shutil.copy(served(unsigned, "manifest.json"), tmp_path))
        archive = Path(shutil.copy(served(unsigned, "bundle.zip"), tmp_path))
        own = signing.privyseal("sign", "hot-updater", manifest, "--assets", cwd=tmp_path).strip()
        hash_ = signing.privyseal("sign", "hot-updater", archive, cwd=tmp_path).strip()
        assert_held(packages, signing.public_pem, manifest, {manifest: own, archive: hash_})

        if signing.private_pem is None:
            return
        # The CLI's own signing, with the key in a file.
        theirs = tmp_path / "theirs"
        record = deployed(packages, theirs, SIGNING_KEY=str(signing.private_pem))
        assert manifest.read_bytes() == served(theirs, "manifest.json").read_bytes()
        assert own == record["manifestFileHash"]
        archive = served(theirs, "bundle.zip")
        assert signing.privyseal("sign", "hot-updater", archive, cwd=tmp_path).strip() == record["fileHash"]

    def test_deploy_with_the_example_publishes_what_devices_take(self, service, packages, tmp_path):
        record = deployed(packages, tmp_path, **with_the_example(service, "token"))
        manifest, archive = served(tmp_path, "manifest.json"), served(tmp_path, "bundle.zip")
        hashes = {manifest: record["manifestFileHash"], archive: record["fileHash"]}
        assert_held(packages, PRIVATE_PEM.with_name("public.pem"), manifest, hashes)

    def test_deploy_with_the_example_publishes_nothing_that_is_not_signed(self, service, packages, tmp_path):
        done = deploy(packages, tmp_path, **with_the_example(service, "no such key"))
        assert done.returncode != 0
        assert "check the key's name" in done.stdout + done.stderr
        assert not (tmp_path / "bundle.json").exists()


def with_the_example(service: RealService, key: str) -> dict[str, str]:
    """An environment in which the project signs with a key of the service, by the `privyseal` that is under test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    signer = str(EXAMPLES / "hot-updater" / "privyseal.mjs")
    return {**service.environment, "PRIVYSEAL_KEY": key, "PATH": path, "SIGNER": signer}


ODD_FILES = {
    "main.jsbundle": b"app()",
    "empty": b"",
    ".DS_Store": b"ignored",
    ".codepushrelease": b"ignored",
    "x.DS_Store": b"counts",
    "__MACOSX/a": b"counts: it is not at the top",
    "assets/.DS_Store": b"ignored",
    "assets/deep/er/\xfc \u2028.png": b"1",
    "assets/deep/er/\U0001f600.png": b"2",
    "assets/deep/er/\uff5e.png": b"sorts after the smile in UTF-16",
    "assets/.DS_Store.d/a": b"counts",
    'assets/a"b\\c': b"quoted, and a slash on devices",
    "assets/tab\there": b"escaped",
    "assets/del\x7f": b"not escaped",
    "A": b"capitals first",
    "a.b": b"",
    "a/b": b"",
    "a:b": b"",
}


class TestCodePush:
    def folder(self, parent: Path, files: Mapping[str, bytes], name: str = "CodePush") -> Path:
        for path, data in files.items():
            (parent / name / path).parent.mkdir(parents=True, exist_ok=True)
            (parent / name / path).write_bytes(data)
        return parent / name

    def test_the_cli_computes_the_hash_and_verifies_the_token(self, signing, packages, tmp_path):
        folder = self.folder(tmp_path, ODD_FILES)
        (folder / "link").symlink_to("main.jsbundle")
        (folder / "linked").symlink_to("assets")
        signing.privyseal("sign", "codepush", "CodePush", cwd=tmp_path)
        release = folder / ".codepushrelease"
        (computed,) = json.loads(node(packages, "codepush.cjs", "hash", folder))
        token = json.loads(node(packages, "codepush.cjs", "verify", release, signing.public_pem))
        assert token["header"] == {"alg": "RS256", "typ": "JWT"}
        assert set(token["payload"]) == {"claimVersion", "contentHash", "iat"}
        assert token["payload"]["contentHash"] == computed

        if signing.private_pem is None:
            return
        # The CLI's own signing of the same folder says the same, in the same order.
        shutil.copy(release, tmp_path / "ours")
        node(packages, "codepush.cjs", "sign", folder, signing.private_pem)
        ours, theirs = parts(tmp_path / "ours"), parts(release)
        assert ours[0] == theirs[0]
        assert ours[1].split(b'"iat"')[0] == theirs[1].split(b'"iat"')[0]

    def test_without_a_key_the_cli_deletes_a_release_file(self, packages, tmp_path):
        folder = self.folder(tmp_path, {"a": b"1", ".codepushrelease": b"a.b.c"})
        node(packages, "codepush.cjs", "sign", folder)
        assert not (folder / ".codepushrelease").exists()


def parts(release: Path) -> tuple[bytes, bytes]:
    """The header and the claims of a JWT, decoded."""
    header, claims, _ = release.read_bytes().split(b".")
    return base64.urlsafe_b64decode(header + b"=="), base64.urlsafe_b64decode(claims + b"==")


class TestPlain:
    @pytest.mark.parametrize(("scheme", "options"), [
        (PKCS1, ()),
        (PSS, ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-sigopt", "rsa_mgf1_md:sha256")),
    ])  # fmt: skip
    def test_openssl_verifies(self, signing, tmp_path, scheme, options):
        file = tmp_path / "app.bin"
        file.write_bytes(os.urandom(3_000_000))
        signing.privyseal(
            "sign", "file", "app.bin", "--scheme", scheme, "--encoding", "raw", "--output", "sig", cwd=tmp_path
        )
        verify = ["dgst", "-sha256", *options, "-verify", signing.public_pem, "-signature"]
        assert openssl(*verify, tmp_path / "sig", file) == "Verified OK\n"

        digest = sha256(file.read_bytes())
        printed = signing.privyseal(
            "sign", "digest", digest.hexdigest(), "--scheme", scheme, "--encoding", "hex", cwd=tmp_path
        )
        (tmp_path / "sig2").write_bytes(bytes.fromhex(printed))
        (tmp_path / "digest").write_bytes(digest.digest())
        padding = [option.replace("-sigopt", "-pkeyopt") for option in options]
        verify = ["pkeyutl", "-verify", "-pubin", "-inkey", signing.public_pem, "-pkeyopt", "digest:sha256", *padding]
        said = openssl(*verify, "-in", tmp_path / "digest", "-sigfile", tmp_path / "sig2")
        assert said == "Signature Verified Successfully\n"
