"""`privyseal completion`: the script that makes a shell complete the command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from privyseal._terminal import result

_EPILOG = """\b
Examples:
  echo 'eval "$(privyseal completion bash)"' >> ~/.bashrc
  echo 'eval "$(privyseal completion zsh)"' >> ~/.zshrc
  privyseal completion fish > ~/.config/fish/completions/privyseal.fish
"""


@click.command(epilog=_EPILOG, short_help="Print a completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    result(kind(context.find_root().command, {}, "privyseal", "_PRIVYSEAL_COMPLETE").source().rstrip("\n"))
