"""`privyseal-server check`: what would serve, what would not, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from privyseal_service.commands._options import config_option
from privyseal_service.commands._run import load_or_exit, run_async
from privyseal_service.system.exit_codes import REFUSED


@click.command(short_help="Say what would serve and what would not, and why.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(config_file: Path, *, as_json: bool) -> None:
    """Say for each listener, issuer and key, for the Redis that counts and for the audit trail whether it would serve.

    When one would not: which part failed (module, token, PIN, object, attribute, mechanism, custody, certificate, key,
    CA, issuer, network, limits; audit, folder, log, sink) and the remedy. Prints each key's fingerprint, to be pinned
    in the configuration. Signs nothing. Exits with 1 when any would not serve.

    \b
    Example:
      privyseal-server check --config /etc/privyseal/server.toml
    """  # noqa: D301 - click's own mark
    config = load_or_exit(config_file)
    from privyseal_service.runtime import preflight as checking  # noqa: PLC0415

    findings = run_async(checking.check(config))
    ok = all(finding.ok for finding in findings)
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(checking.as_json(findings), indent=2))
    else:
        click.echo("\n".join(finding.line() for finding in findings))
    if not ok:
        sys.exit(REFUSED)
