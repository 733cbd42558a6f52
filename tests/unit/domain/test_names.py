"""Names of callers and the patterns that select them: one spelling for each name, and none for a doubtful one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal_service.domain.names import CallerNameError, CallerPattern, common_name, dns_name, spiffe_name


@pytest.mark.parametrize(
    "uri", ["spiffe://example/build/ci", "spiffe://a.b-c_d/x", "spiffe://example", "spiffe://e/A.b_c-1"]
)
def test_spiffe_ids(uri: str) -> None:
    assert spiffe_name(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "SPIFFE://example/build",
        "spiffe://Example/build",
        "spiffe://example/build/",
        "spiffe://example//build",
        "spiffe://example/./build",
        "spiffe://example/../admin",
        "spiffe://example/build%2Fadmin",
        "spiffe://example/build%2e",
        "spiffe://example/*",
        "spiffe://example/**",
        "spiffe://example/build?x=1",
        "spiffe://example/build#x",
        "spiffe://user@example/build",
        "spiffe://example:8443/build",
        "spiffe:///build",
        "spiffe://example/bu\u0456ld",
        "spiffe://ex\u0430mple/build",
        "spiffe://example/build\n",
        "spiffe://example/build ci",
        "https://example/build",
        "spiffe://example/" + "a" * 2048,
    ],
)
def test_what_is_no_spiffe_id(uri: str) -> None:
    with pytest.raises(CallerNameError):
        spiffe_name(uri)


def test_dns_names_are_lower_case() -> None:
    assert dns_name("Build-7.Example") == "dns:build-7.example"


@pytest.mark.parametrize(
    "value",
    ["", "*.example", "build.*", "build.example.", ".example", "a..b", "-a.example", "a-.example", "bu\u0456ld.example",
     "build.example\0.evil", "build example", "build/example", "a" * 64 + ".example", ".".join(["abc"] * 64),
     "\u212aey.example"],
)  # fmt: skip
def test_what_is_no_dns_name(value: str) -> None:
    with pytest.raises(CallerNameError):
        dns_name(value)


def test_common_names_are_as_they_are() -> None:
    assert common_name("Build Machine 7") == "cn:Build Machine 7"


@pytest.mark.parametrize("value", ["", "*", "a*", " a", "a ", "a\n", "\u0430dmin", "a" * 65, "a/b", "a:b"])
def test_what_is_no_common_name(value: str) -> None:
    with pytest.raises(CallerNameError):
        common_name(value)


@pytest.mark.parametrize(
    ("pattern", "selected", "passed_over"),
    [
        ("spiffe://example/build", ["spiffe://example/build"], ["spiffe://example/build/x", "spiffe://example/buil"]),
        (
            "spiffe://example/build/*",
            ["spiffe://example/build/ci", "spiffe://example/build/*"[:-1] + "x.y"],
            ["spiffe://example/build", "spiffe://example/build/ci/7", "spiffe://other/build/ci",
             "spiffe://example/buildx/ci"],
        ),
        (
            "spiffe://example/build/**",
            ["spiffe://example/build/ci", "spiffe://example/build/ci/7"],
            ["spiffe://example/build", "spiffe://example/builder/ci", "spiffe://example.evil/build/ci"],
        ),
        ("spiffe://example/*/ci", ["spiffe://example/a/ci"], ["spiffe://example/a/b/ci", "spiffe://example/ci"]),
        ("spiffe://ex.mple/a", ["spiffe://ex.mple/a"], ["spiffe://example/a"]),
        ("spiffe://ex.mple/*", ["spiffe://ex.mple/a"], ["spiffe://exxmple/a"]),
        (
            "dns:a.build.example",
            ["dns:a.build.example"],
            ["dns:b.build.example", "cn:a.build.example", "dns:aXbuild.example"],
        ),
        (
            "dns:*.build.example",
            ["dns:a.build.example"],
            ["dns:build.example", "dns:a.b.build.example", "dns:a.buildxexample", "dns:a.build.example.evil",
             "cn:a.build.example"],
        ),
        ("cn:Build 7", ["cn:Build 7"], ["cn:Build 77", "dns:Build 7", "cn:build 7"]),
        ("local:insecure", ["local:insecure"], ["local:insecure2", "dns:local"]),
    ],
)  # fmt: skip
def test_patterns(pattern: str, selected: list[str], passed_over: list[str]) -> None:
    parsed = CallerPattern.parse(pattern)
    assert [name for name in selected if not parsed.matches(name)] == []
    assert [name for name in passed_over if parsed.matches(name)] == []


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "**", "dns:", "dns:*", "dns:*.*.example", "dns:a.*.example", "dns:a*.example", "dns:A.example",
     "dns:a.example.",
     "spiffe://*/build", "spiffe://example/**/ci", "spiffe://example/bu*", "spiffe://example/", "cn:*", "cn:",
     "local:*",
     "local:other", "build.example", "spiffe:example", "DNS:a.example"],
)  # fmt: skip
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(CallerNameError):
        CallerPattern.parse(pattern)


@given(st.text())
def test_whatever_is_a_name_is_its_own_pattern_and_no_wildcard(text: str) -> None:
    """An attacker who gets a name into a certificate never gets a wildcard into a comparison."""
    for make in (spiffe_name, dns_name, common_name):
        try:
            name = make(text)
        except CallerNameError:
            continue
        assert name.isascii()
        assert not set("*%?#\n\0") & set(name)
        assert CallerPattern.parse(name).matches(name)
