"""The address of the metrics page."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from privyseal_service.config.metrics import MetricsConfig


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "10.0.0.1:9464", "localhost:9464"])
def test_an_address_that_others_reach_must_be_meant(address: str) -> None:
    with pytest.raises(ValidationError):
        MetricsConfig(address=address)
    MetricsConfig(address=address, remote=True)


def test_an_address_that_is_no_place_for_a_page() -> None:
    with pytest.raises(ValidationError):
        MetricsConfig(address="unix:/run/metrics")
