"""A web app for the Capgo CLI."""

from __future__ import annotations

import random


def web_app():
    """A small app: text that shrinks, bytes that do not, an empty file, folders."""
    chance = random.Random(0)
    files = {f"assets/part-{index}.js": f"export const part = {index};\n".encode() for index in range(8)}
    files |= {
        "index.html": b"<!doctype html><p>Hello</p>\n" * 600,
        "main.js": b"CapacitorUpdater.notifyAppReady()\n",
        "assets/deep/er/style.css": b"body { margin: 0 }\n" * 1000,
        "assets/picture.bin": chance.randbytes(20_000),
        "assets/small.bin": chance.randbytes(16),
        "empty.txt": b"",
    }
    return files
