"""The child's environment, and the private folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from privyseal.exec import child


def test_the_private_folder_is_private_and_goes_with_all_that_is_in_it():
    with child.private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "more").mkdir()
        (folder / "more" / "file").touch()
    assert not folder.exists()


def test_a_long_temporary_folder_is_no_place_for_a_socket(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with child.private_folder() as folder:
        assert len(os.fsencode(folder / "agent")) < 104
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_options_that_were_there_are_kept_and_the_token_is_not_handed_on(tmp_path):
    base = {"NODE_OPTIONS": "--max-old-space-size=512", "PRIVYSEAL_TOKEN": "secret", "HOME": "/h", "PATH": ""}
    env = child.environment(base, tmp_path, tmp_path / "agent", 20)
    first, option, hook = env["NODE_OPTIONS"].split(" ")
    assert (first, option) == ("--max-old-space-size=512", "--import")
    assert Path(hook.removeprefix("file://")).name == "hook.mjs"
    assert env["PRIVYSEAL_AGENT_SOCKET"] == str(tmp_path / "agent")
    assert env["PRIVYSEAL_PLACEHOLDER_KEY"] == str(child.PLACEHOLDER)
    assert int(env["PRIVYSEAL_AGENT_TIMEOUT_MS"]) > 20_000
    assert env["HOME"] == "/h"
    assert "secret" not in str(env)


def test_without_bun_and_deno_the_path_is_as_it_was(tmp_path):
    env = child.environment({"PATH": str(tmp_path)}, tmp_path, tmp_path / "agent", 20)
    assert env["PATH"] == str(tmp_path)
    assert env["NODE_OPTIONS"].startswith("--import file:///")


@pytest.fixture
def with_bun(tmp_path):
    """The environment of a child on a machine with Bun, in a folder whose name wants quoting."""
    tools = tmp_path / "my tools"
    tools.mkdir()
    bun = tools / "bun"
    bun.write_text('#!/bin/sh\necho "real bun: $*"\n')
    bun.chmod(0o755)
    for name in ("bunx", "deno"):
        shutil.copy(bun, tools / name)
    private = tmp_path / "private"
    private.mkdir()
    return child.environment({"PATH": f"{tools}:/usr/bin:/bin"}, private, private / "agent", 20)


@pytest.mark.parametrize("name", ["bun", "bunx", "deno"])
def test_deep_in_a_script_other_runtimes_cannot_run_the_cli(with_bun, name):
    done = subprocess.run(
        ["/bin/sh", "-c", f"{name} run npm:@capgo/cli bundle upload"], env=with_bun, capture_output=True, text=True
    )
    assert done.returncode == 126
    assert done.stdout == ""
    assert f"{name} cannot run the Capgo CLI here" in done.stderr


def test_bun_cannot_take_the_place_of_node(with_bun):
    done = subprocess.run(["/bin/sh", "-c", "bun --bun run release"], env=with_bun, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (126, "")


def test_other_runtimes_may_do_all_else(with_bun):
    done = subprocess.run(["/bin/sh", "-c", "bun run 'my build'"], env=with_bun, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "real bun: run my build\n")
