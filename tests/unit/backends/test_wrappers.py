"""What a store or a key offers beyond the interface is found through every wrapper."""

from __future__ import annotations

import pytest

from privyseal_backends import interface
from privyseal_backends.interface import Computing, Decrypter, KeyCreator, Latching, Metered, Observed, ProcessBound
from privyseal_backends.wrappers import StoreWrapper, capability
from privyseal_service.keys.pin_lockout import PinLockout

OF_STORES = (KeyCreator, ProcessBound, Computing, Metered, Latching)


def offering(protocol: type[object]) -> object:
    """An object with exactly the methods of a protocol, and those of a store."""
    names = {name for name in vars(protocol) if not name.startswith("_")} | {"open_key", "close"}
    return type(protocol.__name__, (), dict.fromkeys(names, lambda *_: None))()


@pytest.mark.parametrize("protocol", OF_STORES)
def test_a_wrapped_store_offers_what_it_offers_alone(protocol: type[object]) -> None:
    store = offering(protocol)
    guarded = PinLockout().guard(lambda _: lambda _settings: store)("any")({})  # type: ignore[arg-type,return-value]

    assert isinstance(guarded, StoreWrapper)
    for wrapped in (store, guarded, StoreWrapper(guarded), StoreWrapper(StoreWrapper(guarded))):
        assert capability(wrapped, protocol) is store
        others = [other for other in OF_STORES if other is not protocol]
        assert [capability(wrapped, other) for other in others] == [None] * len(others)


@pytest.mark.parametrize("protocol", [Decrypter, Observed])
def test_a_key_is_asked_in_the_same_way(protocol: type[object]) -> None:
    key = offering(protocol)

    assert capability(key, protocol) is key
    assert capability(object(), protocol) is None


def test_no_optional_protocol_of_stores_is_left_out() -> None:
    optional = {
        value
        for value in vars(interface).values()
        if getattr(value, "_is_protocol", False) and value.__module__ == interface.__name__
    }

    assert optional - {interface.Key, interface.KeyStore} == {*OF_STORES, Decrypter, Observed, interface.Parallel}
