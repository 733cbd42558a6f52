"""The error of a configuration that cannot be used."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used. The text is one sentence that names the file and the setting or the line.

    A value never appears in it, since a key's URI or a password may be among the values.
    """
