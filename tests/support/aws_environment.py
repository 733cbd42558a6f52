"""An AWS configuration of a test's own, whatever the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SECRET = "the-secret-access-key-of-the-tests"


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path, account: str) -> None:
    """Two variables with credentials of `account`, empty files in `folder`, no instance role, no proxy."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        (folder / name).touch()
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
