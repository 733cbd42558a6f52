"""The commands of `privyseal`. Each imports what it needs when it runs: help and version wait for nothing."""

from __future__ import annotations

import click

from privyseal import __version__
from privyseal.commands.bundle import bundle
from privyseal.commands.checksum import checksum
from privyseal.commands.completion import completion
from privyseal.commands.key import key

_EPILOG = """\b
Examples:
  privyseal bundle encrypt app.zip --key my-app --json
  privyseal bundle decrypt app.zip_encrypted.zip IV:KEY --public-key public.pem --checksum 4f0c…
  privyseal key show my-app --format pkcs1 > public.pem

\b
Settings come from flags, then PRIVYSEAL_SERVER, PRIVYSEAL_KEY, PRIVYSEAL_CA, PRIVYSEAL_CERT, PRIVYSEAL_CERT_KEY,
PRIVYSEAL_TOKEN and PRIVYSEAL_TOKEN_FILE, then privyseal.toml in the working folder (key and format alone), then
~/.config/privyseal/config.toml.

\b
Exit codes: 0 done; 1 refused, not verified, or unfit input; 2 wrong usage, a missing file, wrong configuration;
3 the service could not be reached in time.
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version", prog_name="privyseal", message="%(prog)s %(version)s")
def privyseal() -> None:
    """Seal over-the-air app bundles with a key that never leaves its key store.

    The bundle is encrypted here; a signing service wraps its session key and signs its checksum.
    """


privyseal.add_command(bundle)
privyseal.add_command(checksum)
privyseal.add_command(key)
privyseal.add_command(completion)
