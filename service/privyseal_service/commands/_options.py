"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config_file",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The service's configuration, server.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
