"""The modules, one after another; only where these tests are asked for by their folder, since they need packages that
`make test` does not (scripts/install_modules.sh)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.stores import StoreUnderTest
from tests.modules.stores import MODULES

pytest.register_assert_rewrite(
    *(f"tests.conformance.{name}" for name in ("cases", "backend_cases", "adapters", "samples"))
)


HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked_for = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(HERE) for path in asked_for) else True


@pytest.fixture(scope="session", params=MODULES)
def store(request: pytest.FixtureRequest) -> Iterator[StoreUnderTest]:
    # Not pytest's own folder: a socket's path has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="module-") as folder,
        MODULES[request.param](Path(folder).resolve()) as running,
    ):
        yield running
