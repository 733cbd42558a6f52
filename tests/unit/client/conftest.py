"""The vectors of the published Capgo CLI."""

from __future__ import annotations

from tests.support.client_fixtures import bundle, vector  # noqa: F401 - fixtures
