"""Write proto/landed.json, the image of the API that clients may rely on; --check reports whether it is current.

Buf refuses a change that breaks callers on the wire or in JSON, so the image only ever moves to a compatible API.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).resolve().parent.parent / "proto"
BUF = str(Path(sys.executable).with_name("buf"))
LANDED = PROTO / "landed.json"


def _image() -> str:
    """Return the image of proto/ as indented JSON, so that a change is reviewed line by line."""
    command = [BUF, "build", "--exclude-source-info", "--exclude-imports", "-o", "-#format=json"]
    built = subprocess.run(command, cwd=PROTO, stdout=subprocess.PIPE, check=True).stdout
    return json.dumps(json.loads(built), indent=1) + "\n"


def main() -> int:
    """Write the image, or check it. Returns 1 when the API breaks its callers or the check finds a difference."""
    if subprocess.run([BUF, "breaking", "--against", LANDED.name], cwd=PROTO, check=False).returncode != 0:
        print("accept_proto: proto/ breaks callers of proto/landed.json, see above", file=sys.stderr)
        return 1
    image = _image()
    if sys.argv[1:] != ["--check"]:
        LANDED.write_text(image)
    elif LANDED.read_text() != image:
        print("accept_proto: proto/landed.json is not the image of proto/; run `make proto`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
