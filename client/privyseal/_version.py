"""The version of client, service and backends, which are released together."""

__version__ = "0.1.0"
