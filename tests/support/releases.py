"""What the tests of releases share: a small app, and a service that seals it."""

from __future__ import annotations

import random
from pathlib import Path

from privyseal import Client, SignatureScheme, capgo
from privyseal.release.opening import open_release
from privyseal.release.seal import Release, seal_folder
from privyseal.release.update import parse_update
from tests.fakes.signing_server import SigningServer
from tests.support.capgo_vectors import VECTOR_V3

PUBLIC_KEY = capgo.load_public_key(VECTOR_V3.public_pem.read_bytes())
BASE_URL = "https://updates.example.com/app"


def web_app() -> dict[str, bytes]:
    """Text that shrinks, bytes that do not, sizes around the rule's, an empty file, names with everything in them."""
    chance = random.Random(0)
    return {
        "index.html": b"<!doctype html><p>Hello</p>\n" * 600,
        "main.js": b"notifyAppReady()\n",
        "assets/deep/er/style.css": b"body { margin: 0 }\n" * 1000,
        "assets/picture.bin": chance.randbytes(20_000),
        "assets/8191.txt": b"a" * 8191,
        "assets/8192.txt": b"a" * 8192,
        "assets/large.bin": chance.randbytes(30_000) + bytes(270_000),
        "assets/app.js.br": chance.randbytes(500),
        "assets/app.js": b"let a\n" * 2000,
        "assets/twin.css": b"body { margin: 0 }\n" * 1000,
        "assets/sp ace #1?&%2e ü.txt": b"odd",
        "empty.txt": b"",
    }


def write_app(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read_app(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seal(server: SigningServer, folder: Path, output: Path, **options) -> Release:
    """Seal with a client of its own."""
    given = {"version": "1.2.3", "scheme": SignatureScheme.CAPGO_V3, "base_url": BASE_URL, "workers": 2, **options}
    with Client(f"http://{server.address}") as client:
        return seal_folder(lambda: client, folder, output=output, **given)


def opened(root: Path, output: Path, **options) -> dict[str, bytes]:
    """The files that a device makes of the release in `root`."""
    update = parse_update((root / "update.json").read_bytes())
    open_release(update, root, output=output, **{"public_key": PUBLIC_KEY, **options})
    return read_app(output)
