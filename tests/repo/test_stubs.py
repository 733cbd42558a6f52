"""The generated stubs: a check fails when they are not what proto/ says, and generating them again mends it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT


@pytest.fixture
def copy(tmp_path):
    for part in ("proto", "client/privyseal/v1", "scripts"):
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    return tmp_path


def generate_stubs(copy, *arguments):
    return subprocess.run(
        [sys.executable, copy / "scripts" / "generate_stubs.py", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_committed_stubs_are_current():
    assert generate_stubs(CHECKOUT, "--check").returncode == 0


def test_a_changed_proto_is_seen_and_mended(copy):
    proto = copy / "proto" / "privyseal" / "v1" / "keys.proto"
    proto.write_text(
        proto.read_text().replace("message ListKeysRequest {}", "message ListKeysRequest { bool all = 1; }")
    )
    checked = generate_stubs(copy, "--check")

    assert checked.returncode == 1
    assert checked.stderr == ("generate_stubs: not as proto/ says: keys_pb2.py, keys_pb2.pyi; run `make proto`\n")
    assert generate_stubs(copy).returncode == 0
    assert generate_stubs(copy, "--check").returncode == 0


def test_a_stub_without_a_proto_is_seen_and_removed(copy):
    stub = copy / "client" / "privyseal" / "v1" / "gone_pb2.py"
    stub.touch()

    assert "gone_pb2.py" in generate_stubs(copy, "--check").stderr
    assert generate_stubs(copy).returncode == 0
    assert not stub.exists()
