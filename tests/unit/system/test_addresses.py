"""Which addresses only this machine can reach."""

from __future__ import annotations

import pytest

from privyseal_service.system.addresses import is_local


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:0", "[::1]:5", "unix:/run/x"])
def test_addresses_of_this_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "localhost:1", "10.0.0.1:1", "[::ffff:127.0.0.1]:1", "128.0.0.1:1", "127.1:1", "x"],
)
def test_other_addresses(address: str) -> None:
    assert not is_local(address)
