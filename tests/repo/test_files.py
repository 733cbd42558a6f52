"""What may be in the tree: nothing large, no path of one machine, no index's address, no unfinished work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, name, tracked

FORBIDDEN = {
    "paths of one machine": re.compile(rb"/(?:work|root)/[\w.]"),
    "addresses of indexes": re.compile(rb"(?:pypi|registry\.npmjs|pythonhosted|deb\.debian|proxy\.golang)\.(?:org|io)"),
    "unfinished work": re.compile(rb"\b(?:TODO|FIXME|NotImplementedError)\b|importorskip|xfail|pytest\.skip"),
}
GENERATED = CHECKOUT / "client" / "privyseal" / "v1"


def contents() -> list[tuple[str, bytes]]:
    """Every file of ours but this one, which has to spell what it looks for."""
    ours = [path for path in tracked() if path != Path(__file__).resolve() and path.parent != GENERATED]
    return [(name(path), path.read_bytes()) for path in ours]


def test_no_file_is_larger_than_a_megabyte():
    assert {name(path): path.stat().st_size for path in tracked() if path.stat().st_size > 1_000_000} == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what):
    found = {where: match[0] for where, content in contents() if (match := FORBIDDEN[what].search(content))}

    assert found == {}


def test_scripts_are_executable():
    scripts = [path for path in tracked() if path.read_bytes()[:2] == b"#!"]

    assert CHECKOUT / "scripts" / "setup" in scripts
    assert [name(path) for path in scripts if not path.stat().st_mode & 0o100] == []
