"""The whole configuration: all tables, checked together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, PrivateAttr, ValidationInfo, field_validator, model_validator

from privyseal_backends.registry import store_uris, uri_scheme
from privyseal_service.config.audit import AuditConfig
from privyseal_service.config.consistency import check_issuers
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.fields import Live, Model, Restart, folder_of
from privyseal_service.config.grants import GrantConfig
from privyseal_service.config.identity import IdentityConfig
from privyseal_service.config.issuers import IssuerConfig
from privyseal_service.config.keys import KeyConfig
from privyseal_service.config.limits import LimitsConfig
from privyseal_service.config.listeners import ListenerConfig
from privyseal_service.config.log import LogConfig
from privyseal_service.config.metrics import MetricsConfig
from privyseal_service.config.server import ServerConfig
from privyseal_service.system.file_watch import FileState


class Config(Model):
    """The whole configuration. `files` are the files and folders that it was read from, `seen` the state of each of
    them when it was read."""

    server: Live[ServerConfig] = ServerConfig()
    log: Restart[LogConfig] = LogConfig()
    identity: Live[IdentityConfig] = IdentityConfig()
    audit: Restart[AuditConfig | None] = None
    metrics: Restart[MetricsConfig | None] = None
    limits: Live[LimitsConfig] = LimitsConfig()
    listeners: Restart[Annotated[tuple[ListenerConfig, ...], Field(min_length=1)]]
    issuers: Live[tuple[IssuerConfig, ...]] = ()
    stores: Restart[dict[str, dict[str, JsonValue]]] = Field(default_factory=dict)
    keys: Live[Annotated[tuple[KeyConfig, ...], Field(min_length=1)]]
    grants: Live[tuple[GrantConfig, ...]] = ()
    _files: dict[Path, FileState] = PrivateAttr(default_factory=dict)

    @field_validator("stores")
    @classmethod
    def _resolve_stores(
        cls, stores: dict[str, dict[str, JsonValue]], info: ValidationInfo
    ) -> dict[str, dict[str, JsonValue]]:
        return {
            scheme: store_uris(scheme).resolve_settings(settings, folder_of(info))
            for scheme, settings in stores.items()
        }

    @model_validator(mode="after")
    def _check(self) -> Config:
        twice = [name for name, times in Counter(key.name for key in self.keys).items() if times > 1]
        if twice:
            places = [place for place, key in enumerate(self.keys) if key.name == twice[0]]
            raise ValueError(f"keys[{places[1]}].name: is the name of keys[{places[0]}] too")
        used = {uri_scheme(key.uri) for key in self.keys}
        for scheme in self.stores:
            if scheme not in used:
                raise ValueError(
                    f"stores.{scheme}: no key is in this key store; the keys are in {', '.join(sorted(used))}"
                )
        check_issuers(self.listeners, self.issuers)
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The files and folders that it was read from."""
        return tuple(self._files)

    @property
    def seen(self) -> tuple[FileState, ...]:
        """The state of each of `files` when it was read."""
        return tuple(self._files.values())

    def with_grants(self, grants: tuple[GrantConfig, ...], files: dict[Path, FileState]) -> Config:
        """Return a copy with these grants and these files."""
        copy = self.model_copy(update={"grants": grants})
        copy._files = files  # noqa: SLF001 - its own class
        return copy

    def key(self, name: str) -> KeyConfig:
        """Return the key of this name. Raises ConfigError, naming the keys that there are."""
        for key in self.keys:
            if key.name == name:
                return key
        raise ConfigError(f"the configuration has no key {name!r}; it has {', '.join(key.name for key in self.keys)}")
