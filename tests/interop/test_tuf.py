"""python-tuf and in-toto sign with keys at the real service, and their own code verifies what came of it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from in_toto.exceptions import SignatureVerificationError
from in_toto.models.layout import Layout, Step
from in_toto.models.metadata import Envelope, Metablock
from in_toto.runlib import in_toto_run
from in_toto.verifylib import in_toto_verify
from securesystemslib.exceptions import UnsupportedAlgorithmError
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, CryptoSigner, Key, SSlibKey
from tuf.api.exceptions import DownloadHTTPError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from privyseal.errors import NotVerifiedError, PermissionDeniedError
from privyseal.tuf import PrivysealSigner
from tests.support.programs import VECTORS, configuration, serving, write_pki
from tests.support.softhsm import generate_rsa_key, import_rsa_key, make_token

KEYS = {
    "tuf-root": ["rsassa-pss-sha256"],
    "tuf-online": ["rsassa-pkcs1-v1_5-sha256", "rsassa-pss-sha256"],
    "app": ["capgo", "capgo-v3"],
}
STRANGER = CryptoSigner.generate_rsa(size=2048).public_key
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in-toto asks for it

EXPIRES = datetime.datetime(2126, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuf")
    token = make_token(folder / "hsm", "tuf")
    import_rsa_key(token, "tuf-root", VECTORS / "capgo-v2" / "private.pem")
    import_rsa_key(token, "tuf-online", VECTORS / "capgo-v3" / "private.pem")
    generate_rsa_key(token, "app")
    write_pki(folder)
    keys = {name: (token.uri(name), schemes) for name, schemes in KEYS.items()}
    with serving(folder, configuration(keys), token.environment) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(service, monkeypatch, tmp_path):
    """What a release job has in its environment."""
    for name, value in service.environment.items():
        if name.startswith("PRIVYSEAL_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))
    monkeypatch.chdir(tmp_path)


def signer(name: str, *, scheme: str | None = None) -> PrivysealSigner:
    uri, public_key = PrivysealSigner.import_(name, scheme=scheme)
    assert uri == f"privyseal:{name}"
    return PrivysealSigner.from_priv_key_uri(uri, public_key)


class Folder(FetcherInterface):
    """An updater's network: a repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str):
        path = self.folder / url.removeprefix("https://updates.example/")
        if not path.exists():
            raise DownloadHTTPError(f"no {path.name}", 404)
        return iter([path.read_bytes()])


class Repository:
    """A TUF repository in a folder whose root has a key of its own, and whose other roles one that is online."""

    def __init__(self, folder: Path, root: PrivysealSigner, online: PrivysealSigner) -> None:
        self.folder, self.root, self.online = folder, root, online
        folder.mkdir()
        self.targets = Targets(expires=EXPIRES)

    def add(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        self.targets.targets[name] = TargetFile.from_data(name, content)

    def publish(self) -> bytes:
        """Sign and write all four roles; the trusted root's bytes."""
        root = Root(expires=EXPIRES, consistent_snapshot=False)
        root.add_key(self.root.public_key, "root")
        for role in ("targets", "snapshot", "timestamp"):
            root.add_key(self.online.public_key, role)
        snapshot = Snapshot(expires=EXPIRES, meta={"targets.json": MetaFile(1)})
        timestamp = Timestamp(expires=EXPIRES, snapshot_meta=MetaFile(1))
        for role, signed in (
            ("root", root),
            ("targets", self.targets),
            ("snapshot", snapshot),
            ("timestamp", timestamp),
        ):
            metadata = Metadata(signed)
            metadata.sign(self.root if role == "root" else self.online)
            metadata.to_file(str(self.folder / f"{role}.json"))
        return (self.folder / "root.json").read_bytes()


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "repository", signer("tuf-root"), signer("tuf-online", scheme="rsa-pkcs1v15-sha256"))
    made.add("bundle-1.4.2.zip", b"PK a bundle")
    return made


def updater(repository: Repository, trusted_root: bytes) -> Updater:
    folder = repository.folder.parent / "device"
    (folder / "targets").mkdir(parents=True)
    return Updater(
        str(folder),
        "https://updates.example/",
        str(folder / "targets"),
        "https://updates.example/",
        Folder(repository.folder),
        bootstrap=trusted_root,
    )


def test_a_device_takes_a_target_of_a_repository_that_the_service_signed(repository):
    trusted = repository.publish()
    device = updater(repository, trusted)
    device.refresh()
    target = device.get_targetinfo("bundle-1.4.2.zip")
    assert target is not None
    assert Path(device.download_target(target)).read_bytes() == b"PK a bundle"

    root = Metadata[Root].from_bytes(trusted)
    root.verify_delegate("root", root)
    for role in ("targets", "snapshot", "timestamp"):
        root.verify_delegate(role, Metadata.from_file(str(repository.folder / f"{role}.json")))
    schemes = {key.keyid: key.scheme for key in root.signed.keys.values()}
    assert sorted(schemes.values()) == ["rsa-pkcs1v15-sha256", "rsassa-pss-sha256"]


def test_a_device_refuses_what_was_changed_after_it_was_signed(repository):
    trusted = repository.publish()
    targets = repository.folder / "targets.json"
    changed = json.loads(targets.read_text())
    changed["signed"]["targets"]["bundle-1.4.2.zip"]["length"] += 1
    targets.write_text(json.dumps(changed))

    with pytest.raises(UnsignedMetadataError):
        updater(repository, trusted).refresh()


def test_the_document_can_be_typed(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    script = re.search(r"<!-- tuf -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    root = Metadata[Root].from_file(str(tmp_path / "root.json"))
    root.verify_delegate("root", root)


def key_dict(key: SSlibKey) -> dict:
    """A key as in-toto's layouts hold it."""
    return {**key.to_dict(), "keyid": key.keyid}


def make_layout(functionary: SSlibKey) -> Layout:
    layout = Layout(expires="2126-01-01T00:00:00Z", keys={functionary.keyid: key_dict(functionary)})
    step = Step(name="seal", pubkeys=[functionary.keyid], threshold=1)
    step.set_expected_command_from_string(f"{sys.executable} -c ''")
    step.add_product_rule_from_string("CREATE app.zip")
    step.add_product_rule_from_string("DISALLOW *")
    layout.steps = [step]
    return layout


@pytest.mark.parametrize("form", [Metablock, Envelope])
def test_in_toto_verifies_a_layout_and_a_link_that_the_service_signed(form, tmp_path):
    owner, functionary = signer("tuf-root"), signer("tuf-online")
    layout = make_layout(functionary.public_key)
    signed = Envelope.from_signable(layout) if form is Envelope else Metablock(signed=layout)
    signed.create_signature(owner)
    folder = tmp_path / "build"
    folder.mkdir()
    in_toto_run(
        "seal",
        material_list=[str(folder)],
        product_list=[str(folder)],
        link_cmd_args=[sys.executable, "-c", f"open({str(folder / 'app.zip')!r}, 'w').close()"],
        signer=functionary,
        lstrip_paths=[f"{folder}/"],
        metadata_directory=str(tmp_path),
        use_dsse=form is Envelope,
    )
    keys = {owner.public_key.keyid: key_dict(owner.public_key)}
    in_toto_verify(signed, keys, link_dir_path=str(tmp_path))

    with pytest.raises(SignatureVerificationError):
        in_toto_verify(signed, {functionary.public_key.keyid: key_dict(functionary.public_key)}, str(tmp_path))


def test_the_key_id_is_the_one_that_securesystemslib_computes(service):
    _, public_key = PrivysealSigner.import_("tuf-root")
    with service.client() as client:
        shown = client.get_key("tuf-root").public_key.spki_pem
    assert public_key.keyval["public"] == shown
    again = Key.from_dict(public_key.keyid, public_key.to_dict())
    assert again == public_key
    assert KEY_FOR_TYPE_AND_SCHEME[(public_key.keytype, public_key.scheme)] is SSlibKey


def test_one_client_serves_many_signatures(service):
    with service.client() as client:
        _, public_key = PrivysealSigner.import_("tuf-online", client=client)
        one = PrivysealSigner("tuf-online", public_key, client=client)
        for payload in (b"one", b"two"):
            public_key.verify_signature(one.sign(payload), payload)


class Forger:
    """A service that shows the right key and signs something else."""

    def __init__(self, client) -> None:
        self.get_key = client.get_key
        self._client = client

    def sign_checksum(self, checksum, **named):
        signed = self._client.sign_checksum(bytes(32), **named)
        return dataclasses.replace(signed, request_id="forged")


def test_a_signature_of_something_else_is_not_handed_on(service):
    with service.client() as client:
        _, public_key = PrivysealSigner.import_("tuf-root", client=client)
        with pytest.raises(NotVerifiedError, match="a signature that does not verify"):
            PrivysealSigner("tuf-root", public_key, client=Forger(client)).sign(b"payload")


def test_another_key_of_the_service_signs_nothing(service):
    other = signer("tuf-online", scheme="rsassa-pss-sha256")
    with pytest.raises(NotVerifiedError, match="is not the one with the key id"):
        PrivysealSigner("tuf-root", other.public_key).sign(b"payload")
    with pytest.raises(NotVerifiedError, match=STRANGER.keyid):
        PrivysealSigner("tuf-root", STRANGER).sign(b"payload")


def test_a_key_of_the_apps_signs_no_metadata(service):
    with pytest.raises(UnsupportedAlgorithmError, match="key app is not enrolled"):
        PrivysealSigner.import_("app")
    with pytest.raises(UnsupportedAlgorithmError, match="it signs as rsassa-pss-sha256"):
        PrivysealSigner.import_("tuf-root", scheme="rsa-pkcs1v15-sha256")


def test_a_key_without_a_grant_is_refused_and_tuf_says_that_the_metadata_is_unsigned(service):
    with pytest.raises(PermissionDeniedError):
        PrivysealSigner.import_("stranger")
    _, public_key = PrivysealSigner.import_("tuf-root")
    with pytest.raises(UnsignedMetadataError):
        Metadata(Targets(expires=EXPIRES)).sign(PrivysealSigner("stranger", public_key))


@pytest.mark.parametrize(
    "uri",
    [
        "privyseal:",
        "privyseal:tuf-root?server=sign.evil.example:443",
        "privyseal://sign.evil.example/tuf-root",
        "privyseal:tuf-root\n",
        "hsm:tuf-root",
    ],
)
def test_a_uri_names_a_key_and_nothing_else(uri):
    with pytest.raises(ValueError, match="is not privyseal:NAME"):
        PrivysealSigner.from_priv_key_uri(uri, STRANGER)


@pytest.mark.parametrize("key", [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()])
def test_a_key_that_the_service_cannot_have_is_refused_at_once(key):
    with pytest.raises(UnsupportedAlgorithmError, match="does not sign as"):
        PrivysealSigner.from_priv_key_uri("privyseal:tuf-root", key.public_key)


def test_without_the_extra_it_says_what_to_install():
    code = "import sys; sys.modules['securesystemslib'] = None; import privyseal.tuf"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "pip install 'privyseal[tuf]'" in done.stderr.splitlines()[-1]
