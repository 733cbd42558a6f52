"""The commands of `privyseal`. Each imports what it needs when it runs: help and version wait for nothing."""

from __future__ import annotations

import importlib

import click

from privyseal._version import __version__

_COMMANDS = {
    "audit": "privyseal.commands.audit:audit",
    "bundle": "privyseal.commands.bundle:bundle",
    "checksum": "privyseal.commands.checksum:checksum",
    "completion": "privyseal.commands.completion:completion",
    "exec": "privyseal.commands.exec:exec_command",
    "key": "privyseal.commands.key:key",
    "sign": "privyseal.commands.sign:sign",
}

_EPILOG = """\b
Examples:
  privyseal bundle encrypt app.zip --key my-app --json
  privyseal bundle decrypt app.zip_encrypted.zip IV:KEY --public-key public.pem --checksum 4f0c…
  privyseal key show my-app --format pkcs1 > public.pem
  privyseal sign expo manifest.json --key my-app

\b
Settings come from flags, then PRIVYSEAL_SERVER, PRIVYSEAL_KEY, PRIVYSEAL_CA, PRIVYSEAL_CERT, PRIVYSEAL_CERT_KEY,
PRIVYSEAL_TOKEN and PRIVYSEAL_TOKEN_FILE, then privyseal.toml in the working folder (key and format only), then
~/.config/privyseal/config.toml.

\b
Exit codes: 0 done; 1 refused, not verified, unfit input, or an output that cannot be written; 2 wrong usage, a missing
file, wrong configuration; 3 the service could not be reached in time.
"""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version", prog_name="privyseal", message="%(prog)s %(version)s")
def privyseal() -> None:
    """Seal over-the-air app bundles with a key that never leaves its key store.

    The bundle is encrypted here; a signing service wraps its session key and signs its checksum.
    """
