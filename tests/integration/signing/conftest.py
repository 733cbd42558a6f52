"""The farm, for tests of calls."""

from __future__ import annotations

from tests.support.farm import ca, farm, rsa_key, session_farm  # noqa: F401 - fixtures
