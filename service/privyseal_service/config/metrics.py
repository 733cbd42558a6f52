"""The `[metrics]` table: where Prometheus reads metrics."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from privyseal_service.config.fields import Model, Restart
from privyseal_service.system.addresses import is_local, split_address


class MetricsConfig(Model):
    """Metrics for Prometheus at http://ADDRESS/metrics; without this table there are none.

    The page has neither TLS nor authentication, so the address must be local, unless `remote` states that the network
    keeps others away. With `names` the page has the names of keys and of the places that checkpoints go to.
    """

    address: Restart[str]
    remote: Restart[bool] = False
    names: Restart[bool] = False

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if address.startswith("unix:"):
            raise ValueError("must be HOST:PORT or [IPV6]:PORT, since Prometheus reads metrics over TCP")
        split_address(address)
        return address

    @model_validator(mode="after")
    def _check_local(self) -> MetricsConfig:
        if not self.remote and not is_local(self.address):
            raise ValueError(
                "address must be local (127.0.0.0/8 or [::1]), since the page has no authentication; to use another, "
                "set remote = true and keep others away by the network"
            )
        return self
