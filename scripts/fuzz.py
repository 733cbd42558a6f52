#!/usr/bin/env python3
"""Damaged requests, tokens and key sets against a service, for some minutes: tests/attacks/fuzz.py does it.

usage: scripts/fuzz.py [--minutes MINUTES] [--seed SEED]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "tests.attacks.fuzz", *sys.argv[1:]], cwd=CHECKOUT))
