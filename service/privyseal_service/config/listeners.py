"""The `[[listeners]]` tables: addresses, and how callers prove who they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from privyseal_service.config.fields import Live, Model, PathField, PatternField, Restart, folder_of
from privyseal_service.system.addresses import is_local, split_address

if TYPE_CHECKING:
    from privyseal_service.domain.names import CallerPattern


class ClientCAConfig(Model):
    """A client CA and the names that its certificates may carry."""

    file: Live[PathField]
    names: Live[Annotated[tuple[PatternField, ...], Field(min_length=1)]]

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[CallerPattern, ...]) -> tuple[CallerPattern, ...]:
        if any(pattern.is_oidc for pattern in names):
            raise ValueError("must not be oidc: names, since a CA cannot vouch for the subject of a token")
        return names


class ListenerConfig(Model):
    """One address, and how its callers prove who they are."""

    address: Restart[str]
    auth: Restart[Literal["mtls", "oidc", "none"]]
    certificate: Live[PathField | None] = None
    certificate_key: Live[PathField | None] = None
    client_cas: Live[tuple[ClientCAConfig, ...]] = ()
    allow_common_name: Live[bool] = False

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str, info: ValidationInfo) -> str:
        if not address.startswith("unix:"):
            split_address(address)
            return address
        path = address.removeprefix("unix:")
        if not path or path.startswith("//"):
            raise ValueError("must be unix: and the path of a socket")
        return f"unix:{folder_of(info) / Path(path)}"

    @model_validator(mode="after")
    def _check_auth(self) -> ListenerConfig:
        tls = {"certificate": self.certificate, "certificate_key": self.certificate_key, "client_cas": self.client_cas}
        wanted = {"mtls": list(tls), "oidc": ["certificate", "certificate_key"], "none": []}[self.auth]
        missing = [name for name in wanted if not tls[name]]
        if missing:
            raise ValueError(f'a listener with auth = "{self.auth}" needs {" and ".join(missing)}')
        unused = [name for name, value in tls.items() if value and name not in wanted]
        if unused:
            has = "has no TLS" if self.auth == "none" else "identifies callers by tokens only"
            raise ValueError(f'a listener with auth = "{self.auth}" {has}: remove {" and ".join(unused)}')
        if self.auth == "none" and not is_local(self.address):
            raise ValueError(
                'a listener with auth = "none" must be at a local address (127.0.0.0/8, [::1] or unix:PATH); '
                'anywhere else use auth = "mtls"'
            )
        return self
