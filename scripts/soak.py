"""Load the real service and break it for a long time: `scripts/soak.py --minutes N [--seed N]`.

The code is in tests/chaos, and tests are not installed: this script runs it from the checkout's root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.soak", *sys.argv[1:]])  # noqa: S606
