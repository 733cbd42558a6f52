"""The service finds the installed package by the scheme of a key's URI, and serves a key with it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from privyseal import SignatureScheme, WrapScheme
from tests.conformance.stores import vector_answers
from tests.example_backend.store import agent
from tests.support.example_backend import EXAMPLE
from tests.support.programs import VECTORS, configuration, privyseal_server, serving, write_pki

SCHEMES = ("capgo", "capgo-v2", "capgo-v3")
LOWERED = (
    '[[keys]]\nname = "demo"\nuri = "{uri}"\nschemes = ["capgo", "capgo-v3"]\ncustody = {{ export = "possible" }}\n'
)


@pytest.fixture
def place(installed: Path) -> Iterator[Path]:
    """A folder with certificates, in which an agent runs that holds the key of tests/vectors/capgo-v3."""
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        write_pki(Path(folder))
        with agent(Path(folder), installed, [f"demo:type1:{VECTORS / 'capgo-v3' / 'private.pem'}"], encrypted=False):
            yield Path(folder)


def config(folder: Path, table: str) -> str:
    """With the key's table as it is given, in place of the one that `configuration` makes."""
    uri = f"labagent:{folder}/agent?key=demo"
    head, _, _ = configuration({"demo": (uri, SCHEMES)}).partition("[[keys]]")
    return head + table.format(uri=uri)


def test_the_program_serves_its_key(place: Path, installed: Path) -> None:
    answers = {answer.scheme.value: answer for answer in vector_answers("capgo-v3")}
    with (
        serving(place, config(place, LOWERED), {"PYTHONPATH": str(installed)}) as service,
        service.client() as client,
    ):
        wrapped = client.wrap_session_key(answers["capgo"].data, scheme=WrapScheme.CAPGO)
        assert wrapped.wrapped_key == answers["capgo"].output
        signed = client.sign_checksum(answers["capgo-v3"].data, scheme=SignatureScheme.CAPGO_V3)
        assert signed.signature == answers["capgo-v3"].output
        shown = service.privyseal("key", "custody", "--json")
        (key,) = json.loads(shown.stdout)["keys"]
        assert key["lives_in"] == key["key_version"] == signed.key_version  # its evidence has no form that is known
        findings = [key["custody"][name]["value"] for name in ("protection", "origin", "export")]
        assert findings == ["software", "imported", "possible"]
        assert service.stop() == 0


def test_the_default_bar_refuses_it(place: Path, installed: Path) -> None:
    file = place / "server.toml"
    file.write_text(config(place, LOWERED.replace("custody", "#")))
    checked = privyseal_server("check", "--config", file, env={"PYTHONPATH": str(installed)})
    assert checked.returncode == 1
    assert "custody: export is possible, and the configuration demands possible-once at least" in checked.stdout
    assert "can copy the key" in checked.stdout


def test_without_the_package_there_is_no_such_scheme(place: Path) -> None:
    file = place / "server.toml"
    file.write_text(config(place, LOWERED))
    checked = privyseal_server("check", "--config", file, env={})
    assert checked.returncode == 1
    assert "no key store serves the scheme 'labagent'; those installed serve awskms, gcpkms, pkcs11" in checked.stdout


def test_the_guide_shows_the_code_as_it_is() -> None:
    """Every Python and TOML block of the guide is a piece of the example's files."""
    guide = (EXAMPLE.parents[1] / "docs" / "writing-a-backend.md").read_text()
    code = "\n".join(path.read_text() for path in sorted(EXAMPLE.rglob("*")) if path.suffix in (".py", ".toml", ".md"))
    tests = (Path(__file__).parent / "store.py").read_text() + (
        Path(__file__).parent / "test_conformance.py"
    ).read_text()
    blocks = [block.partition("\n") for block in guide.split("```")[1::2]]
    shown = [body.rstrip("\n") for language, _, body in blocks if language in ("python", "toml")]
    assert len(shown) > 5
    assert [body for body in shown if body not in code and body not in tests] == []
