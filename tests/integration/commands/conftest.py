"""A place for the real program, with a key in the software store."""

from __future__ import annotations

from tests.support.serving import place, private_key, session_ca, software  # noqa: F401 - fixtures
