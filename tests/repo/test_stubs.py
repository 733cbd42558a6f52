"""Generated stubs and the image of the API: a check fails when they do not fit proto/, and `make proto` renews them."""

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
    return run(copy, "generate_stubs.py", *arguments)


def accept_proto(copy, *arguments):
    return run(copy, "accept_proto.py", *arguments)


def run(copy, script, *arguments):
    return subprocess.run(
        [sys.executable, copy / "scripts" / script, *arguments],
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


def change(copy, old, new):
    proto = copy / "proto" / "privyseal" / "v1" / "keys.proto"
    assert old in proto.read_text()
    proto.write_text(proto.read_text().replace(old, new))


def test_the_committed_image_of_the_api_is_current():
    assert accept_proto(CHECKOUT, "--check").returncode == 0


def test_a_compatible_change_is_taken_into_the_image(copy):
    change(copy, "message ListKeysRequest {}", "message ListKeysRequest { bool all = 1; }")

    assert accept_proto(copy, "--check").returncode == 1
    assert accept_proto(copy).returncode == 0
    assert accept_proto(copy, "--check").returncode == 0


def test_a_change_that_breaks_callers_is_refused_and_the_image_kept(copy):
    before = (copy / "proto" / "landed.json").read_bytes()
    change(copy, "string fingerprint = 3", "string sha256 = 9")
    refused = accept_proto(copy)

    assert refused.returncode == 1
    assert "fingerprint" in refused.stdout + refused.stderr
    assert (copy / "proto" / "landed.json").read_bytes() == before
