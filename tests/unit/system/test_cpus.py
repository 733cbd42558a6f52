"""The cores of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal_service.system.cpus import core_count


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("0::/a.slice/b.service\n", {"a.slice/b.service": "50000 100000"}, 1),
        ("0::/a.slice/b.service\n", {"a.slice": "100000 100000", "a.slice/b.service": "max 100000"}, 1),
        ("0::/\n", {"": "100 100"}, 1),
        ("0::/\n", {"": "nonsense"}, None),
        ("0::/../../x\n", {"": "max 100000"}, None),
        ("1:cpu:/old\n", {}, None),
    ],
)
def test_cores_of_a_container(tmp_path: Path, own: str, limits: dict[str, str], cores: int | None) -> None:
    groups = tmp_path / "cgroup"
    groups.mkdir()
    for name, text in limits.items():
        (groups / name).mkdir(parents=True, exist_ok=True)
        (groups / name / "cpu.max").write_text(text)
    (tmp_path / "own").write_text(own)
    assert core_count(groups, tmp_path / "own") == (cores or core_count(groups, tmp_path / "none"))
