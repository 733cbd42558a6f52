"""The service's configuration: one TOML file, checked whole before anything is done with it.

Whatever is wrong with it is one sentence that names the field, or the line where the file is not TOML. Values never
appear in these sentences, since a key's URI may be among them.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    PrivateAttr,
    field_validator,
    model_validator,
)

from privyseal_backends.interface import PURPOSES, CallerError, Export, Origin, Protection
from privyseal_backends.registry import uri_scheme
from privyseal_service.config.audit import AuditConfig
from privyseal_service.config.consistency import check_issuers
from privyseal_service.config.fields import KeyName, Model, PatternField, SchemeField, Seconds, by_value, unique
from privyseal_service.config.grants import GrantConfig
from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.config.limits import LimitsConfig
from privyseal_service.domain.caller import DeniedCertificates
from privyseal_service.domain.operations import MECHANISMS, Scheme
from privyseal_service.system.addresses import is_local, split_address
from privyseal_service.system.file_watch import Seen

if TYPE_CHECKING:
    from privyseal_service.domain.names import CallerPattern

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class ConfigError(Exception):
    """The configuration cannot be used. The text is one sentence that names the file and the field or line."""


def _worded(members: type[Protection | Origin | Export]) -> dict[str, Any]:
    return {member.name.lower().replace("_", "-"): member for member in members}


class ServerConfig(Model):
    """Limits of the process and of its listeners; times in seconds.

    `default_deadline_s` is for calls that come without a deadline. `open_wait_s` is how long the start waits for key
    stores before it serves without them. `max_connection_age_s` bounds how long a connection outlives a CA that was
    taken away; a call in flight may finish after it.

    `workers` is the number of worker processes: left out, one for each core; 0 serves in the process that the command
    line started. With `pin_workers`, each keeps to a core of its own with longer turns there, which costs less where
    nothing else needs the cores. With `share_port`, another service of the same user may listen at the same addresses,
    as a new release does that takes over from an old one. At a stop, health says NOT_SERVING for `drain_wait_s`, so
    that balancers can turn away, and then calls in flight have `shutdown_grace_s`. A worker that says nothing for
    `hang_after_s` is replaced.

    `grants_folder` has grants in files of their own, NAME.toml each. In `state_folder` is what outlives a restart: what
    rates and quotas counted, and the keys of issuers; and the socket that `privyseal-server health` asks. With `watch`,
    a change of this file or of a file of grants is taken up as SIGHUP is; changes of certificates and of files of
    issuers' keys are always. A listener of a worker has `max_connections` at most.
    """

    grants_folder: Path | None = None
    state_folder: Path | None = None
    watch: bool = False
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    pin_workers: bool = False
    share_port: bool = False
    drain_wait_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 0.0
    hang_after_s: Annotated[float, Field(ge=2, le=3600, allow_inf_nan=False)] = 5.0
    shutdown_grace_s: Seconds = 10.0
    default_deadline_s: Seconds = 30.0
    open_wait_s: Seconds = 5.0
    handshake_timeout_s: Seconds = 10.0
    max_connection_age_s: Seconds = 600.0
    max_connection_idle_s: Seconds = 300.0
    max_concurrent_streams: Annotated[int, Field(ge=1, le=100_000)] = 256
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096


class ClientCAConfig(Model):
    """A client CA and the names that it may vouch for."""

    file: Path
    names: Annotated[tuple[PatternField, ...], Field(min_length=1)]

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[CallerPattern, ...]) -> tuple[CallerPattern, ...]:
        if any(pattern.is_oidc for pattern in names):
            raise ValueError("a CA cannot vouch for the subject of a token")
        return names


class ListenerConfig(Model):
    """One address, and how its callers prove who they are."""

    address: str
    auth: Literal["mtls", "oidc", "none"]
    certificate: Path | None = None
    certificate_key: Path | None = None
    client_cas: tuple[ClientCAConfig, ...] = ()
    allow_common_name: bool = False

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if not address.startswith("unix:"):
            split_address(address)
        elif len(address) == len("unix:") or address.startswith("unix://"):
            raise ValueError("must be unix: and the path of a socket")
        return address

    @model_validator(mode="after")
    def _check_auth(self) -> ListenerConfig:
        tls = {"certificate": self.certificate, "certificate_key": self.certificate_key, "client_cas": self.client_cas}
        wanted = {"mtls": list(tls), "oidc": ["certificate", "certificate_key"], "none": []}[self.auth]
        missing = [name for name in wanted if not tls[name]]
        if missing:
            raise ValueError(f'a listener with auth = "{self.auth}" needs {" and ".join(missing)}')
        unused = [name for name, value in tls.items() if value and name not in wanted]
        if unused:
            has = "has no TLS" if self.auth == "none" else "knows callers by their tokens alone"
            raise ValueError(f'a listener with auth = "{self.auth}" {has}: take away {" and ".join(unused)}')
        if self.auth == "none" and not is_local(self.address):
            raise ValueError(
                'a listener with auth = "none" must be at an address of this machine alone '
                '(127.0.0.0/8, [::1] or unix:PATH); anywhere else use auth = "mtls"'
            )
        return self


class IdentityConfig(Model):
    """Certificates that prove nothing any more, as `sha256:HEX` (of the DER) or `serial:HEX`, colons allowed."""

    denied_certificates: tuple[str, ...] = ()

    @field_validator("denied_certificates")
    @classmethod
    def _check(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        normal = tuple(
            kind + colon + rest.replace(":", "").lower() for kind, colon, rest in (v.partition(":") for v in values)
        )
        for value in normal:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}|serial:[0-9a-f]{1,40}", value):
                raise ValueError("must each be sha256: and 64 hex digits, or serial: and hex digits")
        return normal

    def denied(self) -> DeniedCertificates:
        """The same, to look up."""
        parts = [value.split(":") for value in self.denied_certificates]
        return DeniedCertificates(
            frozenset(rest for kind, rest in parts if kind == "sha256"),
            frozenset(int(rest, 16) for kind, rest in parts if kind == "serial"),
        )


class LogConfig(Model):
    """How the log on standard error is written."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsConfig(Model):
    """Metrics for Prometheus at http://ADDRESS/metrics; without this table there are none.

    The page has no TLS and asks nobody who they are, so it is for this machine alone, unless `remote` says that the
    network in front of it keeps others away. With `names` it names keys and the places that checkpoints go to.
    """

    address: str
    remote: bool = False
    names: bool = False

    @model_validator(mode="after")
    def _check(self) -> MetricsConfig:
        if self.address.startswith("unix:"):
            raise ValueError("address must be HOST:PORT or [IPV6]:PORT, as Prometheus asks over TCP")
        split_address(self.address)
        if not self.remote and not is_local(self.address):
            raise ValueError(
                "address must be one of this machine alone (127.0.0.0/8 or [::1]), since whoever reaches it is "
                "answered; anywhere else set remote = true, and keep others away from it"
            )
        return self


class CustodyBar(Model):
    """The least that a key must have on each finding; a key below it is not served."""

    protection: Annotated[Protection, by_value(_worded(Protection), "one of")] = Protection.UNKNOWN
    origin: Annotated[Origin, by_value(_worded(Origin), "one of")] = Origin.UNKNOWN
    export: Annotated[Export, by_value(_worded(Export), "one of")] = Export.POSSIBLE_ONCE


class KeyConfig(Model):
    """A key: where it is, what it is enrolled for, and what must be true of it.

    With `required`, a key store that is away stops the start. `state = "frozen"` stops every use of the key at once,
    when the configuration is read again.
    """

    name: KeyName
    uri: Annotated[str, Field(min_length=1)]
    schemes: Annotated[tuple[SchemeField, ...], Field(min_length=1), AfterValidator(unique)]
    fingerprint: str | None = None
    custody: CustodyBar = CustodyBar()
    required: bool = False
    state: Literal["serving", "frozen"] = "serving"

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        try:
            uri_scheme(uri)
        except CallerError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from None
        return uri

    @field_validator("fingerprint")
    @classmethod
    def _check_fingerprint(cls, value: str | None) -> str | None:
        if value is not None and not _FINGERPRINT.fullmatch(value):
            raise ValueError("must be the 64 lower-case hex digits that `privyseal-server check` prints")
        return value

    @field_validator("schemes")
    @classmethod
    def _one_purpose(cls, schemes: tuple[Scheme, ...]) -> tuple[Scheme, ...]:
        by_purpose = {PURPOSES[MECHANISMS[scheme]]: scheme.value for scheme in reversed(schemes)}
        if len(by_purpose) > 1:
            raise ValueError(
                f"{' and '.join(sorted(by_purpose.values()))} need a key each, since one key must not give a block of "
                "bytes two meanings; make a second key"
            )
        return schemes


class Config(Model):
    """The whole configuration. `files` are those that it was read from, folders among them, `seen` is what they were
    when they were read."""

    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    identity: IdentityConfig = IdentityConfig()
    audit: AuditConfig | None = None
    metrics: MetricsConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    listeners: Annotated[tuple[ListenerConfig, ...], Field(min_length=1)]
    issuers: tuple[IssuerConfig, ...] = ()
    stores: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    keys: Annotated[tuple[KeyConfig, ...], Field(min_length=1)]
    grants: tuple[GrantConfig, ...] = ()
    _files: dict[Path, Seen] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        twice = [name for name, times in Counter(key.name for key in self.keys).items() if times > 1]
        if twice:
            raise ValueError(f"keys: two have the name {twice[0]!r}")
        used = {uri_scheme(key.uri) for key in self.keys}
        for scheme in self.stores:
            if scheme not in used:
                raise ValueError(
                    f"stores.{scheme}: no key is in this key store; those of the keys are {', '.join(used)}"
                )
        check_issuers(self)
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """What it was read from."""
        return tuple(self._files)

    @property
    def seen(self) -> tuple[Seen, ...]:
        """What each of `files` was."""
        return tuple(self._files.values())

    def with_grants(self, grants: tuple[GrantConfig, ...], files: dict[Path, Seen]) -> Config:
        """The same with these grants in place of its own, and with the files that it was read from."""
        copy = self.model_copy(update={"grants": grants})
        copy._files = files  # noqa: SLF001 - its own class
        return copy

    def key(self, name: str) -> KeyConfig:
        """The key of this name. Raises ConfigError, naming those that there are."""
        for key in self.keys:
            if key.name == name:
                return key
        raise ConfigError(f"the configuration has no key {name!r}; it has {', '.join(key.name for key in self.keys)}")
