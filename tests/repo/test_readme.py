"""The README: its first lines, and every command in it, run in the order in which a reader would."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.checkout import CHECKOUT
from tests.support.pki import CA
from tests.support.programs import clean_environment, serving
from tests.support.softhsm import make_token

README = (CHECKOUT / "README.md").read_text()
PROGRAMS = Path(sys.executable).parent
JQ = """#!{python}
import json, sys
assert sys.argv[1] == "-r"
print(json.load(open(sys.argv[3]))[sys.argv[2].removeprefix(".")])
"""


def block(name: str) -> str:
    """The code block that a comment in the README names."""
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)[1]


class Reader:
    """A security team's folder, and a build machine's in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.build = folder, folder / "build"
        self.build.mkdir()
        self.token = make_token(folder, "release")
        shutil.copy(self.token.pin_file, folder / "pin.txt")
        programs = folder / "bin"
        programs.mkdir()
        (programs / "jq").write_text(JQ.format(python=sys.executable))
        (programs / "jq").chmod(0o755)
        search = os.pathsep.join([str(programs), str(PROGRAMS), os.environ["PATH"]])
        self.environment = {**clean_environment(), **self.token.environment, "PATH": search}

    def types(self, script: str, *, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=at or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def configuration(self) -> str:
        text = block("configuration")
        assert "/usr/lib/softhsm/libsofthsm2.so" in text
        assert "0.0.0.0:8443" in text
        return text.replace("/usr/lib/softhsm/libsofthsm2.so", str(self.token.module_path)).replace(
            "0.0.0.0:8443", "127.0.0.1:0"
        )


def key_pem(ca: CA) -> bytes:
    return ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def reader(tmp_path):
    return Reader(tmp_path)


def test_the_first_ten_lines_say_what_it_is_for_and_for_whom():
    first = " ".join(README.splitlines()[:10])

    assert "signs over-the-air app bundles with a private key that never leaves its HSM" in first
    assert "It is for teams that ship" in first


def test_a_build_job_is_five_lines():
    assert len(block("build job").splitlines()) == 5


def test_the_two_commands_are_there():
    assert re.findall(r"^(make \w+)", block_after("Try it"), re.MULTILINE) == ["make demo", "make test"]


def block_after(heading: str) -> str:
    return re.search(rf"## {heading}\n.*?```\w+\n(.*?)```", README, re.DOTALL)[1]


def test_a_reader_can_type_it_all(reader):
    """A key, a certificate, the service, a build job: nothing but what the README says, with this machine's names."""
    ca = CA("Build CA")
    ca.write(reader.folder)
    (reader.folder / "ca-key.pem").write_bytes(key_pem(ca))
    ca.server().write(reader.folder, "server")
    (reader.folder / "server.toml").write_text(reader.configuration())

    made = reader.types(block("key"))
    assert made.returncode == 0, made.stdout + made.stderr
    assert (reader.folder / "public.pem").read_text().startswith("-----BEGIN RSA PUBLIC KEY-----\n")

    certified = reader.types(block("certificate"))
    assert certified.returncode == 0, certified.stderr

    (reader.build / "secrets").mkdir()
    for name in ("ca.pem", "build.pem", "build-key.pem"):
        shutil.copy(reader.folder / name, reader.build / "secrets")
    shutil.copy(reader.folder / "public.pem", reader.build)
    (reader.build / "dist" / "css").mkdir(parents=True)
    (reader.build / "dist" / "index.html").write_text("<!doctype html>")
    (reader.build / "dist" / "css" / "app.css").write_text("body {}")
    with serving(reader.folder, reader.configuration(), reader.token.environment) as service:
        job = block("build job")
        assert "sign.build.example:8443" in job
        done = reader.types(job.replace("sign.build.example:8443", service.address), at=reader.build)

    assert done.returncode == 0, done.stderr
    opened = reader.build / "app.zip_encrypted.zip_decrypted.zip"
    assert opened.read_bytes() == (reader.build / "app.zip").read_bytes()
    with zipfile.ZipFile(opened) as archive:
        assert {"index.html", "css/app.css"} <= set(archive.namelist())


def test_an_imported_key_serves_as_the_readme_says(reader):
    ca = CA("Build CA")
    ca.write(reader.folder)
    ca.server().write(reader.folder, "server")
    (reader.folder / "server.toml").write_text(reader.configuration())
    shutil.copy(CHECKOUT / "tests" / "vectors" / "capgo-v3" / "private.pem", reader.folder / ".capgo_key_v2")
    command = re.search(r"`(privyseal-server key import [^`]+)`", README.replace("\n", " "))[1]
    imported = reader.types(command)

    assert imported.returncode == 0, imported.stderr
    assert imported.stdout == (CHECKOUT / "tests" / "vectors" / "capgo-v3" / "public.pem").read_text()


def test_every_command_and_option_exists():
    words = [line for name in ("build job", "key") for line in block(name).splitlines()]
    words += re.findall(r"`((?:privyseal|privyseal-server) [a-z][^`]*)`", README.replace("\n", " "))
    commands: dict[str, set[str]] = {}
    for line in words:
        own = line.partition(" -- ")[0]
        if match := re.match(r"privyseal(?:-server)?(?: (?:bundle|key|checksum|audit|sign) [a-z-]+| [a-z]+)", own):
            commands.setdefault(match[0], set()).update(re.findall(r"(?<=\s)--[a-z-]+", own))
    assert len(commands) >= 13
    for command, options in commands.items():
        program, *arguments = command.split()
        shown = subprocess.run(
            [PROGRAMS / program, *arguments, "--help"], capture_output=True, text=True, timeout=200, check=False
        )
        assert shown.returncode == 0, command
        assert {option for option in options if option not in shown.stdout} == set(), command


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def table(heading: str, first: str) -> list[list[str]]:
    """The rows of the table under a heading whose first column is `first`."""
    section = README[README.index(f"## {heading}\n") :]
    rows = re.search(rf"^\| {first} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", section, re.MULTILINE)[1]
    return [cells(row) for row in rows.splitlines()]


def test_the_table_of_tools_names_the_stores_that_can():
    stores = ("PKCS#11", "AWS KMS", "Google Cloud KMS")
    able = {
        scheme.strip("`"): {store for store, how in zip(stores, found, strict=True) if how != "no"}
        for scheme, *found in table("Key stores", "Scheme")
    }
    tools = table("Supported tools", "Tool")
    assert len(tools) >= 9
    for tool, _, schemes, named in tools:
        # A comma stands between those that are needed together, "or" before another one that would do.
        needed = [able[scheme] for scheme in re.findall(r"`([^`]+)`", schemes)]
        assert set(named.split(", ")) == set.intersection(*needed), tool


def test_every_tool_has_a_command_or_a_class_that_is_there():
    for tool, command, *_ in table("Supported tools", "Tool"):
        quoted = re.findall(r"`(privyseal[^`]*)`", command)
        assert quoted, tool
        for name in quoted:
            if name.startswith("privyseal."):
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute)
            else:
                assert name.startswith("privyseal ")  # and exists: see test_every_command_and_option_exists
