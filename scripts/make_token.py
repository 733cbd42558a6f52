"""Make a SoftHSM token with PINs that nobody chose, and keep the user's in a file that only its owner reads.

make_token.py LABEL PIN_FILE        (SOFTHSM2_CONF and PRIVYSEAL_SOFTHSM_MODULE say where)
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import dev_pki
import pkcs11


def main() -> int:
    """Initialise a token, then give it other PINs than those that stood on softhsm2-util's command line, where every
    user of the machine could read them."""
    label, pin_file = sys.argv[1:]
    module = os.environ["PRIVYSEAL_SOFTHSM_MODULE"]
    first_pin, first_so_pin, pin = (secrets.token_hex(8) for _ in range(3))
    options = ["--label", label, "--pin", first_pin, "--so-pin", first_so_pin]
    made = subprocess.run(
        ["softhsm2-util", "--module", module, "--init-token", "--free", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        print(f"make_token: softhsm2-util made no token: {made.stderr.strip()}", file=sys.stderr)
        return 1
    dev_pki.write_private(Path(pin_file), pin.encode())
    token = pkcs11.lib(module).get_token(token_label=label)
    with token.open(rw=True, so_pin=first_so_pin) as session:
        session.set_pin(first_so_pin, secrets.token_hex(8))
    with token.open(rw=True, user_pin=first_pin) as session:
        session.set_pin(first_pin, pin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
