"""requirements.lock: a version and hashes for each package, no address, and everything that pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib

from tests.support.checkout import CHECKOUT

LOCK = (CHECKOUT / "requirements.lock").read_text()
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def entries() -> dict[str, str]:
    """Each package's name with its whole entry."""
    joined = re.sub(r"\\\n", " ", LOCK)
    lines = [line for line in joined.splitlines() if line and not line.lstrip().startswith("#")]
    return {re.match(r"[a-z0-9-]+", line)[0]: line for line in lines}


def test_every_package_has_one_version_and_hashes():
    bad = [line for line in entries().values() if not re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}\b", line)]

    assert bad == []
    assert len(entries()) > 40


def test_no_address():
    assert re.search(r"://|--(?:extra-)?index|--find-links|^-e|@ ", LOCK, re.MULTILINE) is None


def test_everything_that_the_project_asks_for_is_locked():
    wanted = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-") for requirement in wanted}

    assert names - set(entries()) == set()
