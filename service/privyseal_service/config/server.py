"""The `[server]` table: limits of the process and of its listeners."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privyseal_service.config.fields import Live, Model, PathField, ReloadMark, Restart, Seconds

_WORKERS = ReloadMark("live; to or from 0, restart", lambda old, new: 0 in (old, new))


class ServerConfig(Model):
    """Limits of the process and of its listeners; times in seconds.

    `workers` is the number of worker processes: by default one for each core; with 0 the process of the command line
    serves. `pin_workers` keeps each worker on a core of its own. `share_port` lets another service of the same user
    listen at the same addresses, for a new release that replaces an old one. A worker that sends no report for
    `hang_after_s` is replaced. `grpc` chooses the gRPC server: its core, grpc.aio, or by grpcio's version.

    At a stop, health reports NOT_SERVING for `drain_wait_s` before calls are refused, so that load balancers can react;
    then calls in flight have `shutdown_grace_s`. `open_wait_s` is how long the start waits for key stores before it
    serves without them. `default_deadline_s` is the deadline of calls that have none. `max_connection_age_s` limits how
    long a connection outlives a client CA that was removed; a call in flight may finish after it. `max_connections`
    counts for one listener of one worker.

    `grants_folder` has files of grants, NAME.toml. `state_folder` keeps what a restart must not lose (counts of rates
    and quotas, issuers' keys) and the socket of `privyseal-server health`. With `watch`, a changed configuration file
    is read again without SIGHUP; changed certificates and JWK set files always are.
    """

    grants_folder: Live[PathField | None] = None
    state_folder: Restart[PathField | None] = None
    watch: Live[bool] = False
    workers: Annotated[Annotated[int, Field(ge=0, le=256)] | None, _WORKERS] = None
    pin_workers: Restart[bool] = False
    share_port: Restart[bool] = False
    grpc: Restart[Literal["auto", "core", "aio"]] = "auto"
    drain_wait_s: Live[Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]] = 0.0
    hang_after_s: Live[Annotated[float, Field(ge=2, le=3600, allow_inf_nan=False)]] = 5.0
    shutdown_grace_s: Live[Seconds] = 10.0
    default_deadline_s: Restart[Seconds] = 30.0
    open_wait_s: Live[Seconds] = 5.0
    handshake_timeout_s: Restart[Seconds] = 10.0
    max_connection_age_s: Restart[Seconds] = 600.0
    max_connection_idle_s: Restart[Seconds] = 300.0
    max_concurrent_streams: Restart[Annotated[int, Field(ge=1, le=100_000)]] = 256
    max_connections: Restart[Annotated[int, Field(ge=1, le=1_000_000)]] = 4096
