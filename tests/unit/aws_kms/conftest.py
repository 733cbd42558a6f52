"""No test here sees the machine's AWS configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import aws_environment


@pytest.fixture(autouse=True)
def isolated_aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    aws_environment.isolate(monkeypatch, tmp_path, "111122223333")
