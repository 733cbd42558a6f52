"""Break the real service in every way known and see it come back: `scripts/chaos.py [--seed N] [-k WORDS]`.

The code is with the tests, in tests/chaos, which are no package of their own: this runs it from the checkout's root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]])  # noqa: S606
