"""Which configuration each worker gets, and how many workers there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from privyseal_service.system.cpus import core_count

if TYPE_CHECKING:
    from privyseal_service.config.root import Config


def worker_count(config: Config) -> int:
    """Return how many workers the configuration means; 0 is to serve without workers. A Unix socket has one worker."""
    if config.server.workers == 0:
        return 0
    if all(listener.address.startswith("unix:") for listener in config.listeners):
        return 1
    return config.server.workers or core_count()


def config_for_worker(config: Config, addresses: Sequence[str], number: int) -> Config:
    """Return the configuration with the addresses that the supervisor reserved, one for each listener.

    Only worker 0 serves a Unix socket: its file belongs to the last process that listened.
    """
    listeners = tuple(
        listener.model_copy(update={"address": address})
        for listener, address in zip(config.listeners, addresses, strict=True)
        if number == 0 or not listener.address.startswith("unix:")
    )
    server = config.server.model_copy(update={"share_port": True})
    return config.model_copy(update={"server": server, "listeners": listeners})
