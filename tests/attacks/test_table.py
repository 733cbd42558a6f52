"""docs/threat-model.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_test_of_the_table_is_there() -> None:
    table = (CHECKOUT / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", table))
    files = (CHECKOUT / "tests").rglob("test_*.py")
    found = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
    there = {name for file in files for name in found.findall(file.read_text())}
    assert len(named) > 20
    assert named - there == set()


def test_every_attack_is_in_the_table() -> None:
    table = (CHECKOUT / "docs" / "threat-model.md").read_text()
    attacks = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        if file != Path(__file__)
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert {name for name in attacks if f"`{name}`" not in table} == set()
