"""What tests do not take over from whoever runs them: a client's settings, and a proxy on the way to this machine."""

from __future__ import annotations

import os

KEPT = ("PRIVYSEAL_SOFTHSM_MODULE", "PRIVYSEAL_TEST_")
"""What set-up found, and what chooses which tests run."""


def pytest_configure() -> None:
    """In the process itself, so that the programs which it starts and gRPC's core are spared too."""
    for name in [name for name in os.environ if name.startswith("PRIVYSEAL_") and not name.startswith(KEPT)]:
        del os.environ[name]  # as after `make serve` and its exports
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,::1,localhost")))
