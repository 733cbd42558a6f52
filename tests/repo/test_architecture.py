"""docs/architecture.md and the code say the same, and a stranger who follows the page adds a toy of each kind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, tracked

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
ROOMS = CHECKOUT / "service" / "privyseal_service"


def layers(contract: str) -> list[str]:
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (each["layers"] for each in contracts if each["id"] == contract)
    return list(reversed(found))


def test_the_table_has_the_rooms_in_their_order():
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|.*\| *(?:`([\w.]+)`)? *\|$", PAGE, re.MULTILINE)

    assert [room for room, _ in rows] == layers("service-rooms")
    folders = {path.name for path in ROOMS.iterdir() if (path / "__init__.py").exists()}
    assert {room for room, _ in rows} == folders | {"cli"}
    assert [room for room, begin in rows if begin and not (ROOMS / room / begin).is_file()] == []


@pytest.mark.parametrize("room", [room for room in layers("service-rooms") if room != "cli"])
def test_each_room_says_what_it_is_in_three_sentences(room):
    text = " ".join((ROOMS / room / "__init__.py").read_text().strip().strip('"').split())
    sentences = re.findall(r"[.](?=\s|$)", text)

    assert len(sentences) == 3
    assert "imports" in text
    (begin,) = re.findall(r"Begin (?:to read )?(?:in|with) `([\w.]+)`", text)
    assert (ROOMS / room / begin).is_file()


def test_every_file_that_the_page_names_is_there():
    roots = tuple(f"{room}/" for room in layers("service-rooms"))
    named = set(re.findall(r"`([\w./-]+(?:/|\.(?:py|proto|toml|md|json)))`", PAGE))
    missing = [
        name
        for name in sorted(named)
        if "/" in name and not ((ROOMS if name.startswith(roots) else CHECKOUT) / name).exists()
    ]

    assert missing == []


# --- the stranger ----------------------------------------------------------------------------------------------------


def allowed(kind: str) -> list[str]:
    """The files and folders that the page names for a change of one kind."""
    section = PAGE.split(f"**{kind}**", 1)[1].split("\n**", 1)[0].split("\n\nA ", 1)[0]
    return re.findall(r"`([\w./-]+/[\w./-]*|[\w.-]+\.(?:toml|md))`", section)


class Copy:
    """A copy of the tree that remembers what was changed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in tracked():
            target = folder / path.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        self.before = self.contents()

    def contents(self) -> dict[str, bytes]:
        kept = (path for path in self.folder.rglob("*") if not {"__pycache__", ".hypothesis"} & {*path.parts})
        files = (path for path in kept if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}

    def add(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
        (self.folder / name).write_text(text.replace(old, new))

    def run(self, *command: str) -> str:
        roots = [str(self.folder / root) for root in ("client", "service", "backends")]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), *roots])},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def test(self, *arguments: str) -> str:
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments)

    def assert_only_touched(self, kind: str) -> None:
        now = self.contents()
        touched = {name for name in {*now, *self.before} if now.get(name) != self.before.get(name)}
        names = allowed(kind)
        stray = {name for name in touched if not any(name == one or name.startswith(one) for one in names)}
        stray -= {name for name in stray if ".dist-info/" in name}

        assert touched
        assert stray == set()


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path / "tree")


TOY_SCHEME_TEST = '''"""The toy scheme signs the SHA-256 of "toy:" and the checksum."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal.model import SignatureScheme as ClientScheme
from privyseal.v1 import signing_pb2
from privyseal.verification import check_signature
from privyseal_service.api.wire import SIGNATURE_SCHEMES
from privyseal_service.domain.operations import SignatureScheme, checksum_to_sign


def test_the_service_forms_it_and_the_client_verifies_it():
    number = signing_pb2.SIGNATURE_SCHEME_TOY_SHA256
    assert SIGNATURE_SCHEMES[number] is SignatureScheme.TOY_SHA256
    checksum = sha256(b"bundle").digest()
    signing_input = checksum_to_sign(SignatureScheme.TOY_SHA256, checksum)
    assert signing_input.data == sha256(b"toy:" + checksum).digest()
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(signing_input.data, padding.PKCS1v15(), Prehashed(SHA256()))
    check_signature(key.public_key(), ClientScheme.TOY_SHA256, checksum, signature)
'''


def test_a_stranger_adds_a_scheme(copy):
    copy.replace(
        "proto/privyseal/v1/signing.proto",
        "  SIGNATURE_SCHEME_RSASSA_PSS_SHA256 = 4;\n",
        "  SIGNATURE_SCHEME_RSASSA_PSS_SHA256 = 4;\n  // A toy.\n  SIGNATURE_SCHEME_TOY_SHA256 = 5;\n",
    )
    copy.run("scripts/generate_stubs.py")
    copy.run("scripts/accept_proto.py")
    operations = "service/privyseal_service/domain/operations.py"
    copy.replace(
        operations,
        '    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"\n',
        '    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"\n    TOY_SHA256 = "toy-sha256"\n',
    )
    copy.replace(
        operations,
        "        SignatureScheme.RSASSA_PSS_SHA256: Mechanism.PSS_SHA256,\n",
        "        SignatureScheme.RSASSA_PSS_SHA256: Mechanism.PSS_SHA256,\n"
        "        SignatureScheme.TOY_SHA256: Mechanism.PKCS1_V1_5_SHA256,\n",
    )
    copy.replace(
        operations,
        "    if scheme is SignatureScheme.CAPGO_V2:\n",
        "    if scheme is SignatureScheme.TOY_SHA256:\n"
        '        checksum = __import__("hashlib").sha256(b"toy:" + checksum).digest()\n'
        "    if scheme is SignatureScheme.CAPGO_V2:\n",
    )
    copy.replace(
        "client/privyseal/model.py",
        '    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"\n',
        '    TOY_SHA256 = "toy-sha256"\n    RSASSA_PSS_SHA256 = "rsassa-pss-sha256"\n',
    )
    copy.replace(
        "client/privyseal/verification.py",
        "    form = (\n",
        "    if scheme is SignatureScheme.TOY_SHA256:\n"
        '        checksum = __import__("hashlib").sha256(b"toy:" + checksum).digest()\n'
        "    form = (\n",
    )
    copy.run("scripts/backends_table.py", "--write")
    copy.add("tests/unit/domain/test_toy_scheme.py", TOY_SCHEME_TEST)

    assert "1 passed" in copy.test("tests/unit/domain/test_toy_scheme.py")
    copy.test("tests/unit/api/test_wire.py", "tests/unit/domain")
    assert "toy-sha256" in (copy.folder / "README.md").read_text()
    copy.assert_only_touched("A signature scheme")


TOY_COMMAND = '''"""`privyseal-server toy`: print a greeting."""

from __future__ import annotations

import click


@click.command(short_help="Print a greeting.")
@click.argument("name")
def toy(name: str) -> None:
    """Print a greeting for NAME."""
    click.echo(f"hello {name}")
'''
TOY_COMMAND_TEST = """from click.testing import CliRunner

from privyseal_service.cli import cli


def test_toy():
    assert CliRunner().invoke(cli, ["toy", "stranger"]).output == "hello stranger\\n"
"""


def test_a_stranger_adds_a_command(copy):
    copy.add("service/privyseal_service/commands/toy.py", TOY_COMMAND)
    cli = "service/privyseal_service/cli.py"
    copy.replace(
        cli,
        "from privyseal_service.commands.serve import serve\n",
        "from privyseal_service.commands.serve import serve\nfrom privyseal_service.commands.toy import toy\n",
    )
    copy.replace(cli, "key, serve)", "key, serve, toy)")
    copy.add("tests/unit/commands/test_toy.py", TOY_COMMAND_TEST)

    assert "1 passed" in copy.test("tests/unit/commands/test_toy.py")
    main = "import sys; from privyseal_service.cli import main; sys.argv = ['privyseal-server', 'toy', 'you']; main()"
    assert copy.run("-c", main) == "hello you\n"
    copy.assert_only_touched("A command of `privyseal-server`")


TOY_BACKEND = '''"""Toy keys, made in memory: `toy:NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.interface import (
    Custody,
    Export,
    Key,
    KeyDescription,
    Mechanism,
    Origin,
    Protection,
    PublicKey,
    Signature,
    SigningInput,
    SigningResult,
)


class ToyKey:
    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        public_key = PublicKey(self._key.public_key())
        custody = Custody(Protection.SOFTWARE, (), Origin.GENERATED_INSIDE, (), Export.POSSIBLE, (), ())
        able = frozenset({Mechanism.PKCS1_V1_5_SHA256})
        refusals = {each: "toys do not" for each in Mechanism if each not in able}
        self.description = KeyDescription("toy", public_key, able, refusals, custody)

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        return [Signature(self._key.sign(one.data, padding.PKCS1v15(), Prehashed(SHA256()))) for one in inputs]


class ToyStore:
    async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
        return ToyKey()

    async def close(self) -> None:
        """Close nothing."""


def open_store(settings: Mapping[str, object]) -> ToyStore:
    return ToyStore()
'''
TOY_BACKEND_TEST = """import hashlib
import time
from pathlib import Path

from privyseal_backends.interface import Mechanism, SigningInput
from privyseal_backends.registry import backend, store_uris


async def test_a_toy_key_signs():
    store = backend("toy")({})
    key = await store.open_key("toy:one")
    digest = SigningInput(Mechanism.PKCS1_V1_5_SHA256, hashlib.sha256(b"file").digest())
    (signature,) = await key.sign([digest], time.monotonic() + 5)
    assert len(signature.value) == 256
    assert store_uris("toy:one").resolve_paths("toy:one?path=a", Path("/b")) == "toy:one?path=a"
"""


def test_a_stranger_adds_a_backend(copy, tmp_path):
    copy.add("backends/privyseal_backends/toy.py", TOY_BACKEND)
    copy.replace(
        "pyproject.toml",
        'pkcs11 = "privyseal_backends.pkcs11.store:open_store [pkcs11]"\n',
        'pkcs11 = "privyseal_backends.pkcs11.store:open_store [pkcs11]"\ntoy = "privyseal_backends.toy:open_store"\n',
    )
    copy.replace("pyproject.toml", '"aws_kms | google_kms | pkcs11"', '"aws_kms | google_kms | pkcs11 | toy"')
    copy.add("tests/unit/backends/test_toy.py", TOY_BACKEND_TEST)
    # What an installation makes of the entry points in pyproject.toml.
    points = tomllib.loads((copy.folder / "pyproject.toml").read_text())["project"]["entry-points"]
    text = "".join(f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in each.items()) for group, each in points.items())
    copy.add("backends/privyseal-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: privyseal\nVersion: 0.1.0\n")
    copy.add("backends/privyseal-0.1.0.dist-info/entry_points.txt", text)

    assert "1 passed" in copy.test("tests/unit/backends/test_toy.py")
    linted = copy.run("-c", "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])")
    assert "0 broken" in linted
    copy.assert_only_touched("A backend")
