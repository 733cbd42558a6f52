"""The table of backends and schemes: current in every document that has it, and true of the stores of the suite."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from privyseal_backends.interface import Mechanism
from privyseal_service.domain.operations import MECHANISMS, MODULUS_BITS
from tests.conformance.stores import StoreUnderTest
from tests.modules.stores import MODULES

CHECKOUT = Path(__file__).resolve().parents[2]
COLUMNS = {"pkcs11": "PKCS#11", "awskms": "AWS KMS", "gcpkms": "Google Cloud KMS"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backends_table", CHECKOUT / "scripts" / "backends_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
    try:
        spec.loader.exec_module(module)
        return module
    finally:
        del sys.modules[spec.name]


def test_every_document_that_has_the_table_has_the_code_s(script: ModuleType) -> None:
    documents = script.documents()
    assert CHECKOUT / "docs" / "backends.md" in documents
    assert [path.name for path in documents if script.renewed(path.read_text()) != path.read_text()] == []


def test_a_document_without_marks_is_not_touched(script: ModuleType) -> None:
    for text in ("", script.BEGIN, f"{script.END} {script.BEGIN}"):
        with pytest.raises(ValueError, match="no marks"):
            script.renewed(text)


def test_the_table_says_of_each_store_what_its_keys_showed(script: ModuleType, store: StoreUnderTest) -> None:
    """A key that has a scheme is in the table with its size; a scheme that is not in the table is no key's."""
    able = script.abilities()
    shown: set[Mechanism] = set()
    for key in store.keys:
        for scheme, mechanism in MECHANISMS.items():
            if mechanism in key.can and key.public_key.key_size in MODULUS_BITS[mechanism]:
                assert key.public_key.key_size in able[COLUMNS[store.scheme], scheme].sizes
                shown.add(mechanism)
    promised = {
        MECHANISMS[scheme] for (name, scheme), one in able.items() if name == COLUMNS[store.scheme] and one.sizes
    }
    # SoftHSM is the token without OAEP with SHA-256: other tokens have it.
    missing = {Mechanism.OAEP_SHA256} if store.scheme == "pkcs11" else set()
    assert shown == promised - missing


def test_the_page_on_modules_has_each_one_that_was_tested() -> None:
    """And says of the others that they were not."""
    sections = (CHECKOUT / "docs" / "pkcs11-modules.md").read_text().split("\n## ")[1:]
    said = {section.partition("\n")[0]: section.split("\n\n")[1] for section in sections}
    tested = {"SoftHSM", "NSS softokn", "opencryptoki's soft token", "tpm2-pkcs11", "p11-kit"}
    assert {name for name, words in said.items() if words.startswith("Tested here: ")} == tested
    assert {name for name, words in said.items() if words.startswith("Not tested here; ")} == set(said) - tested
    assert len(MODULES) == len(tested) - 1  # SoftHSM is in the suite of every run
