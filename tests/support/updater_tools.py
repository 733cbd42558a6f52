"""The published packages of other updaters, which check what we sign for them."""

from __future__ import annotations

from pathlib import Path

from tests.support import npm

LOCKED = Path(__file__).parent.parent / "interop" / "updaters"


def install() -> Path:
    """The folder that has their `node_modules`."""
    return npm.install(LOCKED)
