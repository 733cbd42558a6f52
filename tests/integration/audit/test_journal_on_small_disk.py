"""A real disk that fills up: nothing leaves, and service resumes by itself when there is room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import audit


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_disk_that_fills_up_stops_answers_until_there_is_room(tmp_path, kind):
    script = Path(audit.__file__).with_name("small_disk.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(300 * 1024), kind], stdout=subprocess.PIPE, check=True, timeout=200
    )
    told = json.loads(done.stdout)
    assert told["before"] > 50
    assert told["refused"] == 20
    assert told["missing"] == 0
    assert told["answered"] == told["before"] + 1
    assert len(told["heard"]) == 2
    assert told["heard"][1] == "safe"
    assert ("No space left" if told["kind"] == "tmpfs" else "File too large") in told["heard"][0]
