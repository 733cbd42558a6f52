"""The Makefile: every target is explained, and every target that a document names exists."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.checkout import CHECKOUT, documents, name

MAKEFILE = (CHECKOUT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def make(*targets: str) -> str:
    """What make prints, as if no other make had started the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *targets], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def help_text() -> str:
    return make("help")


def test_help_lists_every_target():
    assert set(re.findall(r"^  make ([a-z-]+)", help_text(), re.MULTILINE)) == TARGETS
    assert {"demo", "serve", "test", "lint", "proto", "bench-sealing", "help"} <= TARGETS


def test_help_says_what_each_target_does():
    assert all(re.fullmatch(r"  make [a-z-]+ +\S.{10,}", line) for line in help_text().splitlines())


def test_make_alone_is_help():
    assert make() == help_text()


def test_no_target_is_taken_for_a_file():
    assert set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split()) == TARGETS


@pytest.mark.parametrize("document", documents(), ids=name)
def test_documents_name_targets_that_exist(document):
    code = re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL)
    named = {target for piece in code for target in re.findall(r"(?:^|[`\n;&]\s*)make ([a-z][a-z-]*)", piece)}

    assert named <= TARGETS
