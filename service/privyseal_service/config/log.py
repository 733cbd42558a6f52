"""The `[log]` table: how the log on standard error is written."""

from __future__ import annotations

from typing import Literal

from privyseal_service.config.fields import Model, Restart


class LogConfig(Model):
    """Format and level of the log on standard error."""

    format: Restart[Literal["console", "json"]] = "console"
    level: Restart[Literal["debug", "info", "warning", "error"]] = "info"
