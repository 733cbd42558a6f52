"""`privyseal-server check`: whether each part of the configuration would serve, and why not."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from privyseal_service.commands._options import config_option, json_option
from privyseal_service.commands._run import load_or_fail, run_async
from privyseal_service.system.exit_codes import REFUSED


@click.command(short_help="Report what would serve, what would not, and why.")
@config_option
@json_option
def check(config_file: Path, *, as_json: bool) -> None:
    """Report for each listener, issuer and key, for the Redis of rates and for the audit trail whether it would serve.

    For one that would not, the report names the part (module, token, PIN, object, attribute, mechanism, custody,
    certificate, key, CA, issuer, network, limits; audit, folder, log, sink) and the remedy. It has the fingerprint of
    each key, to pin in the configuration. Nothing is signed. Exits with 1 when any would not serve.

    \b
    Example:
      privyseal-server check --config /etc/privyseal/server.toml
    """  # noqa: D301 - click's own mark
    config = load_or_fail(config_file)
    from privyseal_service.runtime import preflight  # noqa: PLC0415

    findings = run_async(preflight.check(config))
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(preflight.as_json(findings), indent=2))
    else:
        click.echo("\n".join(finding.line() for finding in findings))
    if not all(finding.ok for finding in findings):
        sys.exit(REFUSED)
