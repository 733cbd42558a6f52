"""Fixtures of many unit tests: a CA and a key, made once."""

from __future__ import annotations

from tests.support.farm import ca, rsa_key  # noqa: F401 - fixtures
