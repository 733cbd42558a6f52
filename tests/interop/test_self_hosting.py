"""Releases of `bundle seal` opened by code that is not ours, and held against what the published CLI uploads."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.interop.capgo_api.server import API_KEY, CapgoApi
from tests.support import exec_program as program
from tests.support.capgo_cli import make_app
from tests.support.capgo_release import web_app
from tests.support.programs import serving_vectors
from tests.support.releases import read_app, write_app
from tests.support.signers import VECTORS

pytestmark = pytest.mark.usefixtures("with_node")

HERE = Path(__file__).parent
FORMATS = ("capgo-v2", "capgo-v3")
BASE_URL = "https://updates.example.com/app"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The real service, with the vectors' keys in a token."""
    with serving_vectors(tmp_path_factory.mktemp("service")) as (running, _):
        yield running


def seal(service, folder: Path, name: str, *flags: str) -> dict[str, object]:
    """Seal folder/dist as folder/served."""
    done = service.privyseal(
        "bundle", "seal", "dist", "--version", "1.2.3", "--output", "served", "--base-url", BASE_URL, "--delta",
        "--format", name, "--key", name, "--json", *flags, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FORMATS)
def test_node_opens_what_we_seal(service, tmp_path, name):
    files = {**web_app(), "assets/old.js.br": b"not what its name says", "assets/sp ace ü #%.txt": b"odd"}
    write_app(tmp_path / "dist", files)
    summary = seal(service, tmp_path, name)
    (tmp_path / "opened").mkdir()
    script = [
        HERE / "open_update.mjs",
        tmp_path / "served",
        BASE_URL,
        VECTORS / name / "public.pem",
        tmp_path / "opened",
    ]
    subprocess.run(["node", *script], check=True, timeout=200)
    names = json.loads((tmp_path / "opened" / "opened.json").read_text())["names"]
    delta = {opened: (tmp_path / "opened" / str(index)).read_bytes() for index, opened in enumerate(names)}
    assert delta == {path: data for path, data in files.items() if data}
    assert summary["operations"] == 2 + len(delta)
    with zipfile.ZipFile(tmp_path / "opened" / "zip.zip") as archive:
        assert {entry: archive.read(entry) for entry in archive.namelist()} == files


@pytest.mark.parametrize("name", FORMATS)
def test_hashes_and_names_are_those_that_the_cli_uploads(service, tmp_path, name):
    """The CLI with the same key in a file, and the same folder."""
    folder = tmp_path / "app"
    folder.mkdir()
    app = make_app(folder, (VECTORS / name / "public.pem").read_text(), name)
    write_app(folder / "dist", web_app())
    with CapgoApi() as api:
        config = json.loads((folder / "capacitor.config.json").read_text())
        config["plugins"]["CapacitorUpdater"].update(api.settings())
        (folder / "capacitor.config.json").write_text(json.dumps(config))
        env = program.environment(tmp_path, GUARD_LOG=str(tmp_path / "guard.log"))
        env["NODE_OPTIONS"] = f"--import {(HERE / 'capgo_api' / 'guard.mjs').as_uri()}"
        key = VECTORS / name / "private.pem"
        done = app.run(
            "bundle", "upload", "--apikey", API_KEY, "--delta", "--bundle", "1.2.3", "--key-v2", key, env=env
        )
        assert done.returncode == 0, done.stdout + done.stderr
        received = api.received
    seal(service, folder, name)
    ours = json.loads((folder / "served" / "update.json").read_text())["manifest"]
    assert {entry["file_name"]: entry["file_hash"] for entry in ours} == {
        entry["file_name"]: entry["file_hash"] for entry in received.manifest
    }


def test_our_own_opening_agrees(service, tmp_path):
    write_app(tmp_path / "dist", web_app())
    seal(service, tmp_path, "capgo-v3")
    public_key = VECTORS / "capgo-v3" / "public.pem"
    for flags, expected in (((), {n: d for n, d in web_app().items() if d}), (("--zip",), web_app())):
        output = tmp_path / f"opened{len(flags)}"
        done = service.privyseal(
            "bundle", "open", "served/update.json", "--public-key", public_key, "--output", output, *flags, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert read_app(output) == expected


def test_the_published_cli_opens_our_zip(service, tmp_path):
    app = make_app(tmp_path / "app", (VECTORS / "capgo-v3" / "public.pem").read_text(), "capgo-v3")
    write_app(app.folder / "dist", web_app())
    seal(service, app.folder, "capgo-v3")
    update = json.loads((app.folder / "served" / "update.json").read_text())
    opened = app.run(
        "bundle", "decrypt", "served/1.2.3/bundle.zip", update["session_key"], "--key", "public.pem",
        "--checksum", update["checksum"],
    )  # fmt: skip
    assert (opened.returncode, "Checksum matches" in opened.stdout) == (0, True), opened.stdout
