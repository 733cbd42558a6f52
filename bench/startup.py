"""How soon the service answers: from the start of `privyseal-server serve` to its first signature.

    python bench/startup.py                 ten starts of each arrangement
    python bench/startup.py --starts 3

With one key in a SoftHSM token, mutual TLS, a grant and the audit trail on disk. It prints the median, the least and
the most of all starts, and the CPU time that the service's processes took until then, which other work on the machine
disturbs less. It exits with 1 when the median is above a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from tests.support.programs import CAPGO_SCHEMES, VECTORS, configuration, serving, write_pki  # noqa: E402
from tests.support.softhsm import import_rsa_key, make_token  # noqa: E402
from throughput import cpu_s, tree  # noqa: E402

from privyseal import SignatureScheme  # noqa: E402

BOUND_S = 1.0
ARRANGEMENTS = {"one process": "workers = 0", "one worker a core": ""}


def start(folder: Path, config: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds until the first signature is there, the client's own connection among it, and seconds of CPU time."""
    begun_s = time.perf_counter()
    with serving(folder, config, environment) as service, service.client() as client:
        client.sign_checksum(bytes(32), scheme=SignatureScheme.CAPGO_V3)
        return time.perf_counter() - begun_s, cpu_s(tree(service.process.pid))


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Measure how soon the service answers.")
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    slow = False
    with tempfile.TemporaryDirectory(prefix="privyseal-startup-") as scratch:
        folder = Path(scratch)
        token = make_token(folder / "hsm", "startup")
        import_rsa_key(token, "startup", VECTORS / "capgo-v3" / "private.pem")
        write_pki(folder)
        keys = {"startup": (token.uri("startup"), CAPGO_SCHEMES)}
        for name, server in ARRANGEMENTS.items():
            config = f"[server]\n{server}\n{configuration(keys)}"
            found = [start(folder, config, dict(token.environment)) for _ in range(options.starts)]
            took = [took_s for took_s, _ in found]
            median = statistics.median(took)
            slow |= median > BOUND_S
            print(
                f"startup, {name}: {median:.2f} s to the first signature (median of {len(took)}, {min(took):.2f} to "
                f"{max(took):.2f}), {statistics.median(used_s for _, used_s in found):.2f} s CPU: "
                f"{'within' if median <= BOUND_S else 'above'} {BOUND_S:g} s",
                flush=True,
            )
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
