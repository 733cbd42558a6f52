"""The wire's enums and the domain's have the same names, in both directions."""

from __future__ import annotations

import enum

import pytest
from google.protobuf.descriptor import EnumDescriptor

from privyseal.v1 import keys_pb2, signing_pb2
from privyseal_service.api.wire import KEY_STATES, SIGNATURE_SCHEMES, WRAP_SCHEMES
from privyseal_service.domain.operations import SignatureScheme, WrapScheme
from privyseal_service.keys.served_key import KeyState

ENUMS = [
    pytest.param(signing_pb2.WrapScheme.DESCRIPTOR, WrapScheme, WRAP_SCHEMES, id="wrap schemes"),
    pytest.param(signing_pb2.SignatureScheme.DESCRIPTOR, SignatureScheme, SIGNATURE_SCHEMES, id="signature schemes"),
    pytest.param(
        keys_pb2.KeyState.DESCRIPTOR, KeyState, {number: state for state, number in KEY_STATES.items()}, id="key states"
    ),
]


@pytest.mark.parametrize(("wire", "domain", "by_number"), ENUMS)
def test_every_value_of_the_wire_is_the_domain_s_of_the_same_name(
    wire: EnumDescriptor, domain: type[enum.Enum], by_number: dict[int, enum.Enum]
) -> None:
    unset, *values = wire.values
    prefix = unset.name.removesuffix("UNSPECIFIED")

    assert unset.number == 0
    assert {value.name: by_number[value.number].name for value in values} == {
        f"{prefix}{member.name}": member.name for member in domain
    }
