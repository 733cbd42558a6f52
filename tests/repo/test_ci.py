"""`.ci/run` calls lint, demo and test, and fails when any of them does. A make of the test's own stands in for make."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.checkout import CHECKOUT

MAKE = """#!/bin/sh
echo "make $1"
[ "$1" != "$FAILS" ]
"""


def ci(folder, *, fails="nothing"):
    (folder / "make").write_text(MAKE)
    (folder / "make").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FAILS": fails}
    return subprocess.run(
        ["bash", ".ci/run"], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_all_is_well(tmp_path):
    done = ci(tmp_path)

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("make ")] == [
        "make lint",
        "make demo",
        "make test",
    ]


@pytest.mark.parametrize("target", ["lint", "demo", "test"])
def test_one_fails_and_the_others_still_run(tmp_path, target):
    done = ci(tmp_path, fails=target)

    assert done.returncode == 1
    assert f"ci: failed: make {target}" in done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("make ")]) == 3
