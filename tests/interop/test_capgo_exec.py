"""The published Capgo CLI under `privyseal exec`, against a loopback stand-in of Capgo's API.

Whatever it uploads is opened, and every signature checked, by open_upload.mjs: node's crypto and none of our code. A
guard of the tests' own fails every connection that leaves this machine.
"""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from tests.fakes.signing_server import Fault
from tests.interop.capgo_api.server import API_KEY, APP_ID, CapgoApi
from tests.support import exec_program as program
from tests.support.capgo_cli import install, make_app
from tests.support.capgo_release import web_app
from tests.support.programs import serving_vectors
from tests.support.signers import VECTORS

pytestmark = pytest.mark.usefixtures("with_node")

HERE = Path(__file__).parent
FORMATS = ("capgo-v2", "capgo-v3")


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """A signing server for the vectors' key of each format."""
    with (
        program.service(tmp_path_factory.mktemp("v2"), (VECTORS / "capgo-v2" / "private.pem").read_bytes()) as v2,
        program.service(tmp_path_factory.mktemp("v3"), (VECTORS / "capgo-v3" / "private.pem").read_bytes()) as v3,
    ):
        yield {"capgo-v2": v2, "capgo-v3": v3}


@dataclass
class Release:
    """An app that is about to be released: its folder, the API that it is sent to, and how the program runs."""

    folder: Path
    script: Path
    format: str
    api: CapgoApi
    service: program.Service
    env: dict[str, str]
    home: Path
    files: dict[str, bytes]

    def exec(self, *words, flags=("--strict",)):
        """Run `privyseal exec` in the app's folder."""
        before = len(self.service.server.calls)
        done = program.run(words, cwd=self.folder, env=self.env, flags=flags)
        self.operations = [call.method for call in self.service.server.calls[before:] if call.method != "GetKey"]
        assert program.left_behind(self.home) == []
        assert not (self.home / "guard.log").exists(), (self.home / "guard.log").read_text()
        assert self.api.received.unexpected == []
        return done

    def upload(self, *options, **more):
        """Run `bundle upload`."""
        return self.exec("node", self.script, "bundle", "upload", "--apikey", API_KEY, *options, **more)

    def open(self):
        """What a device makes of the upload: the files of the zip, and those of the delta."""
        folder = self.home / "upload"
        folder.mkdir()
        received = self.api.received
        objects = {path: f"object-{index}" for index, path in enumerate(received.objects)}
        for path, name in objects.items():
            (folder / name).write_bytes(received.objects[path])
        upload = {
            "format": self.format,
            "publicKey": (VECTORS / self.format / "public.pem").read_text(),
            "version": received.version,
            "manifest": received.manifest,
            "objects": objects,
        }
        (folder / "upload.json").write_text(json.dumps(upload))
        subprocess.run(["node", HERE / "open_upload.mjs", folder], check=True, timeout=200)
        opened = json.loads((folder / "opened.json").read_text())
        zipped = None
        if opened["zip"]:
            with zipfile.ZipFile(io.BytesIO((folder / opened["zip"]).read_bytes())) as archive:
                zipped = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        return zipped, {name: (folder / file).read_bytes() for name, file in opened["files"].items()}


@pytest.fixture
def make_release(tmp_path, services):
    """Makes a release of a format; the API is stopped afterwards."""
    with CapgoApi() as api:

        def make(name):
            folder = tmp_path / "app"
            folder.mkdir()
            app = make_app(folder, (VECTORS / name / "public.pem").read_text(), name)
            config = json.loads((folder / "capacitor.config.json").read_text())
            config["plugins"]["CapacitorUpdater"].update(api.settings())
            (folder / "capacitor.config.json").write_text(json.dumps(config))
            files = web_app()
            for path, data in files.items():
                (folder / "dist" / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / "dist" / path).write_bytes(data)
            env = program.environment(
                tmp_path,
                **services[name].variables,
                CI="1",
                CAPGO_DISABLE_TELEMETRY="1",
                GUARD_LOG=str(tmp_path / "guard.log"),
                NODE_OPTIONS=f"--import {(HERE / 'capgo_api' / 'guard.mjs').as_uri()}",
            )
            return Release(folder, app.script, name, api, services[name], env, tmp_path, files)

        yield make


@pytest.mark.parametrize("name", FORMATS)
def test_bundle_encrypt_is_byte_for_byte_what_a_local_key_makes(make_release, name):
    release = make_release(name)
    vector = json.loads((VECTORS / name / "vector.json").read_text())
    zipped = VECTORS / name / "bundle.zip"
    (release.folder / "bundle.zip").write_bytes(zipped.read_bytes())
    done = release.exec("node", release.script, "bundle", "encrypt", "bundle.zip", vector["plain_sha256_hex"], "--json")
    assert done.returncode == 0, done.stderr
    sealed = json.loads(done.stdout)
    assert sealed["checksum"] == vector["checksum_field"]
    assert release.operations == ["WrapSessionKey", "SignChecksum"]
    release.api.received.version = {
        "name": "1.0.0",
        "session_key": sealed["ivSessionKey"],
        "checksum": sealed["checksum"],
    }
    release.api.received.objects = {"apps/1.0.0.zip": (release.folder / sealed["filename"]).read_bytes()}
    opened, _ = release.open()
    with zipfile.ZipFile(zipped) as archive:
        assert opened == {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.mark.parametrize(("name", "options"), [("capgo-v2", ()), ("capgo-v3", ()), ("capgo-v3", ("--tus",))])
def test_a_full_upload(make_release, name, options):
    release = make_release(name)
    done = release.upload(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.operations == ["WrapSessionKey", "SignChecksum"]
    zipped, delta = release.open()
    assert zipped == release.files
    assert delta == {}
    received = release.api.received
    assert received.channel_bundle == "production=1.0.0"
    body = "".join((VECTORS / name / "public.pem").read_text().splitlines()[1:-1])
    assert received.version["key_id"] == body[:20]


@pytest.mark.parametrize("name", FORMATS)
def test_a_delta_upload_signs_every_file(make_release, name):
    release = make_release(name)
    done = release.upload("--delta", "--bundle", "1.2.3")
    assert done.returncode == 0, done.stdout + done.stderr
    zipped, delta = release.open()
    assert zipped == release.files
    assert delta == {path: data for path, data in release.files.items() if data}
    assert sorted(release.operations) == sorted(["WrapSessionKey", "SignChecksum"] + ["SignChecksum"] * len(delta))
    context = release.service.server.calls[-1].request.context
    assert (context.app_id, context.bundle_version) == (APP_ID, "1.2.3")


def test_a_delta_upload_with_the_real_service_and_a_key_in_a_token(make_release, tmp_path):
    release = make_release("capgo-v3")
    (tmp_path / "service").mkdir()
    with serving_vectors(tmp_path / "service") as (running, _):
        release.env.update(
            {name: value for name, value in running.environment.items() if name.startswith("PRIVYSEAL_")}
        )
        done = release.upload("--delta", flags=["--strict", "--key", "capgo-v3"])
    assert done.returncode == 0, done.stdout + done.stderr
    zipped, delta = release.open()
    assert (zipped, len(delta)) == (release.files, len(release.files) - 1)
    assert release.operations == []  # none of them was the fake's


def test_npx_with_the_cli_of_the_app(make_release):
    """The command as people write it; npx takes the CLI that is installed in the app."""
    release = make_release("capgo-v3")
    modules = release.folder / "node_modules"
    (modules / "@capgo" / "cli").symlink_to(install().parents[1])
    (modules / ".bin").mkdir()
    (modules / ".bin" / "capgo").symlink_to("../@capgo/cli/dist/index.js")
    release.env["npm_config_update_notifier"] = "false"
    done = release.exec("npx", "@capgo/cli", "bundle", "upload", "--apikey", API_KEY, "--delta")
    assert done.returncode == 0, done.stdout + done.stderr
    zipped, delta = release.open()
    assert (zipped, len(delta)) == (release.files, len(release.files) - 1)


def test_the_placeholders_path_is_a_key_for_the_clis_options(make_release):
    release = make_release("capgo-v3")
    script = f'node "{release.script}" bundle upload --apikey {API_KEY} --key-v2 "$PRIVYSEAL_PLACEHOLDER_KEY"'
    done = release.exec("sh", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.open()[0] == release.files
    (release.folder / "a.zip").write_bytes((VECTORS / "capgo-v3" / "bundle.zip").read_bytes())
    encrypt = f'node "{release.script}" bundle encrypt a.zip {"0" * 64} --json --key "$PRIVYSEAL_PLACEHOLDER_KEY"'
    done = release.exec("sh", "-c", encrypt)
    assert done.returncode == 0, done.stderr
    assert release.operations == ["WrapSessionKey", "SignChecksum"]


@pytest.mark.parametrize("option", ["--key-v2", "--key-data-v2"])
def test_a_private_key_of_this_machine_is_never_used(make_release, tmp_path, option):
    release = make_release("capgo-v3")
    key = tmp_path / "elsewhere.pem"
    key.write_bytes((VECTORS / "capgo-v3" / "private.pem").read_bytes())
    value = f'"$(cat {key})"' if option == "--key-data-v2" else str(key)
    done = release.exec("sh", "-c", f'node "{release.script}" bundle upload --apikey {API_KEY} {option} {value}')
    assert done.returncode == 1
    assert "refused to sign with a private key of this machine" in done.stdout + done.stderr
    assert release.api.received.objects == {}
    assert release.operations == []


def test_a_key_file_in_the_folder_is_not_what_the_hooked_cli_sees(make_release):
    """The key of the file is another one, and what was uploaded verifies with the key at the service."""
    release = make_release("capgo-v3")
    (release.folder / ".capgo_key_v2").write_bytes((VECTORS / "capgo-v2" / "private.pem").read_bytes())
    done = release.upload(flags=())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: .capgo_key_v2 holds a private key" in done.stderr
    assert release.open()[0] == release.files


def test_without_the_hook_the_placeholder_signs_nothing(make_release):
    release = make_release("capgo-v3")
    script = f'unset NODE_OPTIONS; node "{release.script}" bundle upload --apikey {API_KEY}'
    done = release.exec("sh", "-c", f'{script} --key-v2 "$PRIVYSEAL_PLACEHOLDER_KEY"')
    assert done.returncode == 1
    assert release.api.received.objects == {}


def test_an_upload_that_was_not_signed_is_no_success(make_release):
    """Without the hook no placeholder is seen either, and the CLI uploads in the clear and is content."""
    release = make_release("capgo-v3")
    script = f'unset NODE_OPTIONS; node "{release.script}" bundle upload --apikey {API_KEY}'
    done = release.exec("sh", "-c", script)
    assert done.returncode == 1
    assert "privyseal exec: the command succeeded, but no signature came through the signing agent" in done.stderr
    assert release.api.received.version.get("session_key") is None


def test_commands_that_sign_nothing_are_left_alone(make_release):
    release = make_release("capgo-v3")
    done = release.exec("node", release.script, "bundle", "zip", APP_ID, "--json")
    assert done.returncode == 0, done.stderr
    zipped = json.loads(done.stdout)
    assert sha256((release.folder / zipped["filename"]).read_bytes()).hexdigest() == zipped["checksum"]


def test_a_refusal_of_the_service_fails_the_upload(make_release):
    release = make_release("capgo-v3")
    release.service.server.fail(
        "SignChecksum", Fault(), Fault(grpc.StatusCode.PERMISSION_DENIED, "the grant has ended")
    )
    done = release.upload("--delta")
    assert done.returncode == 1
    assert "the grant has ended" in done.stdout + done.stderr
    assert release.api.received.objects == {}


def test_a_spki_key_in_the_configuration_stops_it_before_anything_is_sent(make_release):
    release = make_release("capgo-v3")
    path = release.folder / "capacitor.config.json"
    config = json.loads(path.read_text())
    pem = config["plugins"]["CapacitorUpdater"]["publicKey"]
    spki = subprocess.run(
        ["openssl", "rsa", "-RSAPublicKey_in", "-pubout"], input=pem, capture_output=True, text=True, check=True
    ).stdout
    assert spki.startswith("-----BEGIN PUBLIC KEY-----")
    config["plugins"]["CapacitorUpdater"]["publicKey"] = spki
    path.write_text(json.dumps(config))
    done = release.upload()
    assert done.returncode == 125
    assert f'"publicKey": {json.dumps(pem)}' in done.stderr
    assert release.api.received.version == {}
