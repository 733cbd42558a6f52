"""Against the real thing: the published Capgo CLI accepts what we seal, and we accept what it seals."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from privyseal import SignatureScheme
from privyseal.capgo import load_public_key, parse_iv_session_key, recover_session_key
from privyseal.sealing import BundleSecrets, seal_bundle
from tests.support.capgo_cli import CapgoApp, make_app
from tests.support.programs import VECTORS, RealService, serving_vectors
from tests.support.zips import write_zip

pytestmark = pytest.mark.usefixtures("with_node")

FORMATS = ("capgo-v2", "capgo-v3")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    with serving_vectors(tmp_path_factory.mktemp("service")) as (running, _):
        yield running


@pytest.fixture(params=FORMATS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> CapgoApp:
    name = request.param
    return make_app(tmp_path / name, (VECTORS / name / "public.pem").read_text(), name)


def write_bundle(folder: Path) -> Path:
    """A zip that no two runs share, of several chunks and an odd length."""
    return write_zip(folder / "app.zip", {"index.html": b"<p>hello</p>", "blob.bin": os.urandom(1_500_001)})


def seal(service: RealService, app: CapgoApp, bundle: Path) -> dict[str, str]:
    """Our CLI, with the format taken from the app's plugin."""
    sealed = service.privyseal("bundle", "encrypt", bundle, "--key", app.folder.name, "--json", cwd=app.folder)
    assert sealed.returncode == 0, sealed.stderr
    return json.loads(sealed.stdout)


def open_with_capgo(app: CapgoApp, sealed: dict[str, str]) -> tuple[int, str]:
    opened = app.run(
        "bundle", "decrypt", sealed["filename"], sealed["ivSessionKey"], "--key", "public.pem",
        "--checksum", sealed["checksum"],
    )  # fmt: skip
    return opened.returncode, opened.stdout


def test_the_cli_opens_what_we_seal(service: RealService, app: CapgoApp) -> None:
    bundle = write_bundle(app.folder)
    sealed = seal(service, app, bundle)
    code, said = open_with_capgo(app, sealed)
    assert (code, "Checksum matches" in said) == (0, True), said
    assert Path(f"{app.folder / sealed['filename']}_decrypted.zip").read_bytes() == bundle.read_bytes()


def test_the_cli_refuses_what_was_changed_after_we_sealed_it(service: RealService, app: CapgoApp) -> None:
    sealed = seal(service, app, write_bundle(app.folder))
    path = app.folder / sealed["filename"]
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    code, said = open_with_capgo(app, sealed)
    assert code != 0, said


def test_the_json_has_the_cli_s_form(service: RealService, app: CapgoApp) -> None:
    bundle = write_bundle(app.folder)
    ours = service.privyseal("bundle", "encrypt", bundle.name, "--key", app.folder.name, "--json", cwd=app.folder)
    theirs = encrypt_with_capgo(app, bundle.name)
    assert list(json.loads(ours.stdout)) == list(json.loads(theirs))
    assert [len(line) for line in ours.stdout.splitlines()] == [len(line) for line in theirs.splitlines()]
    assert json.loads(ours.stdout)["filename"] == json.loads(theirs)["filename"]


def encrypt_with_capgo(app: CapgoApp, bundle: str) -> str:
    checksum = hashlib.sha256((app.folder / bundle).read_bytes()).hexdigest()
    key = VECTORS / app.folder.name / "private.pem"
    sealed = app.run("bundle", "encrypt", bundle, checksum, "--key", key, "--json")
    assert sealed.returncode == 0, sealed.stderr + sealed.stdout
    return sealed.stdout


def test_we_open_what_the_cli_seals(service: RealService, app: CapgoApp) -> None:
    bundle = write_bundle(app.folder)
    sealed = json.loads(encrypt_with_capgo(app, bundle.name))
    opened = service.privyseal(
        "bundle", "decrypt", sealed["filename"], sealed["ivSessionKey"], "--public-key", "public.pem",
        "--checksum", sealed["checksum"], "--output", "opened.zip", cwd=app.folder,
    )  # fmt: skip
    assert opened.returncode == 0, opened.stderr
    assert (app.folder / "opened.zip").read_bytes() == bundle.read_bytes()


def test_both_make_the_same_bytes_of_the_same_secrets(service: RealService, app: CapgoApp, tmp_path: Path) -> None:
    bundle = write_bundle(app.folder)
    theirs = json.loads(encrypt_with_capgo(app, bundle.name))
    public_key = load_public_key((app.folder / "public.pem").read_text())
    their_iv_session_key = parse_iv_session_key(theirs["ivSessionKey"])
    secrets = BundleSecrets(recover_session_key(public_key, their_iv_session_key.wrapped_key), their_iv_session_key.iv)
    shutil.copy(bundle, tmp_path / "app.zip")
    with service.client() as client:
        ours = seal_bundle(
            lambda: client,
            tmp_path / "app.zip",
            scheme=SignatureScheme(app.folder.name),
            key=app.folder.name,
            bundle_secrets=secrets,
        )
    assert ours.iv_session_key == theirs["ivSessionKey"]
    assert ours.checksum == theirs["checksum"]
    assert ours.path.read_bytes() == (app.folder / theirs["filename"]).read_bytes()
