"""Grants: deny by default, and all four of caller, key, operation and scheme count."""

from __future__ import annotations

import itertools

from privyseal_service.domain.grants import Grant, Grants, allowing
from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme


def grant(
    name: str, caller: str, keys: set[str], operations: set[Operation], schemes: frozenset[Scheme] | None = None
) -> Grant:
    return Grant(name, (CallerPattern.parse(caller),), frozenset(keys), frozenset(operations), schemes)


def allowed(grants: Grants, caller: str, key: str, operation: Operation, scheme: Scheme) -> str | None:
    found = allowing(grants.of_caller(caller).get(key, ()), operation, scheme)
    return found.name if found else None


def test_nobody_may_do_anything_without_a_grant() -> None:
    assert Grants([]).of_caller("dns:a.example") == {}


def test_one_grant_allows_exactly_what_it_names() -> None:
    grants = Grants(
        [grant("g", "dns:a.example", {"k"}, {Operation.SIGN_CHECKSUM}, frozenset({SignatureScheme.CAPGO_V3}))]
    )
    callers = ["dns:a.example", "dns:b.example", "cn:a.example", ""]
    schemes = [*WrapScheme, *SignatureScheme]
    combinations = itertools.product(callers, ["k", "l", ""], Operation, schemes)
    assert [c for c in combinations if allowed(grants, *c)] == [
        ("dns:a.example", "k", Operation.SIGN_CHECKSUM, SignatureScheme.CAPGO_V3)
    ]


def test_two_grants_are_not_mixed() -> None:
    """A caller with wrap on one key and sign on another has neither the other way round."""
    grants = Grants(
        [
            grant("wrap", "dns:a.example", {"k"}, {Operation.WRAP_SESSION_KEY}),
            grant("sign", "dns:a.example", {"l"}, {Operation.SIGN_CHECKSUM}),
        ]
    )
    assert allowed(grants, "dns:a.example", "k", Operation.WRAP_SESSION_KEY, WrapScheme.CAPGO) == "wrap"
    assert allowed(grants, "dns:a.example", "k", Operation.SIGN_CHECKSUM, SignatureScheme.CAPGO_V3) is None
    assert allowed(grants, "dns:a.example", "l", Operation.WRAP_SESSION_KEY, WrapScheme.CAPGO) is None


def test_the_first_grant_that_allows_is_named() -> None:
    grants = Grants(
        [
            grant("narrow", "dns:a.example", {"k"}, {Operation.SIGN_CHECKSUM}, frozenset({SignatureScheme.CAPGO_V2})),
            grant("wide", "dns:*.example", {"k", "j"}, {Operation.SIGN_CHECKSUM}),
            grant("late", "dns:a.example", {"k"}, {Operation.SIGN_CHECKSUM}),
        ]
    )
    assert allowed(grants, "dns:a.example", "k", Operation.SIGN_CHECKSUM, SignatureScheme.CAPGO_V2) == "narrow"
    assert allowed(grants, "dns:a.example", "k", Operation.SIGN_CHECKSUM, SignatureScheme.CAPGO_V3) == "wide"
    assert list(grants.of_caller("dns:a.example")) == ["j", "k"]


def test_many_callers_do_not_fill_the_memory() -> None:
    grants = Grants([grant("wide", "dns:*.example", {"k"}, {Operation.SIGN_CHECKSUM})])
    for number in range(3 * Grants._MOST_CACHED):
        assert list(grants.of_caller(f"dns:a{number}.example")) == ["k"]
    assert len(grants._by_caller) <= Grants._MOST_CACHED
