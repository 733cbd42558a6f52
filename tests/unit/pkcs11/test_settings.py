"""Settings of `[stores.pkcs11]`: each is checked, none is ignored."""

from __future__ import annotations

import pytest

from privyseal_backends.interface import OperatorError
from privyseal_backends.pkcs11.settings import Settings, parse_settings
from privyseal_backends.pkcs11.store import open_store


def test_no_settings_are_the_defaults() -> None:
    assert parse_settings({}) == Settings()


def test_each_setting_is_taken() -> None:
    settings = {
        "sessions": 8,
        "threads": 2,
        "group": 32,
        "read_write": True,
        "init_strings": {"/lib/softokn3.so": "configdir='sql:/x'"},
        "try_low_pin_count": True,
        "open_timeout_s": 5,
        "create_timeout_s": 1.5,
        "close_timeout_s": 2.5,
        "hang_after_s": 7.5,
        "wait_for_token": True,
    }
    assert parse_settings(settings) == Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"session": 4}, "no setting session"),
        ({"sessions": 0}, "sessions"),
        ({"sessions": "4"}, "sessions"),
        ({"sessions": True}, "sessions"),
        ({"sessions": 4.0}, "sessions"),
        ({"threads": 5}, "threads"),
        ({"sessions": 2, "threads": 3}, "threads"),
        ({"group": 257}, "group"),
        ({"read_write": 1}, "read_write"),
        ({"init_strings": "x"}, "init_strings"),
        ({"init_strings": {"/m.so": 1}}, "init_strings"),
        ({"init_strings": {"m.so": "x"}}, "init_strings"),
        ({"init_strings": {"/m.so": ""}}, "init_strings"),
        ({"try_low_pin_count": "yes"}, "try_low_pin_count"),
        ({"open_timeout_s": 0}, "open_timeout_s"),
        ({"close_timeout_s": float("inf")}, "close_timeout_s"),
        ({"hang_after_s": 0}, "hang_after_s"),
        ({"wait_for_token": 1}, "wait_for_token"),
        ({"close_timeout_s": float("nan")}, "close_timeout_s"),
    ],
)
def test_an_unknown_or_unfit_setting_is_the_operators(settings: dict[str, object], word: str) -> None:
    with pytest.raises(OperatorError) as caught:
        open_store(settings)
    assert word in str(caught.value)
