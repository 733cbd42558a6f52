"""Patterns of claims and callers, and the names of issuers."""

from __future__ import annotations

import pytest

from privyseal_service.domain.names import CallerNameError, CallerPattern, check_issuer, oidc_name
from privyseal_service.domain.patterns import PathPattern, PatternError, is_plain


@pytest.mark.parametrize(
    ("pattern", "selects", "not_these"),
    [
        ("refs/heads/main", ["refs/heads/main"], ["refs/heads/main/x", "refs/heads/Main", "refs/heads/main "]),
        ("refs/tags/*", ["refs/tags/v1"], ["refs/tags/", "refs/tags/a/b", "refs/tags", "refs/tags/a:b"]),
        ("refs/heads/**", ["refs/heads/a", "refs/heads/a/b"], ["refs/heads/", "refs/heads/a//b", "refs/heads/a/"]),
        ("*/app", ["octo/app"], ["a/b/app", "/app", "a:b/app"]),
        (
            "repo:octo-org/*:*:refs/heads/**",
            ["repo:octo-org/x:ref:refs/heads/m"],
            ["repo:octo-org/x:y:ref:refs/heads/m"],
        ),
        ("**", ["a", "a/b:c"], ["", "a/", "a\u0430", "a*", "a%2Fb", "a\nb"]),
        ("Prod%3AV1 east", ["Prod%3AV1 east"], ["Prod:V1 east", "Prod%3aV1 east"]),
    ],
)
def test_patterns(pattern: str, selects: list[str], not_these: list[str]) -> None:
    found = PathPattern.parse(pattern)
    assert [text for text in (*selects, *not_these) if found.matches(text)] == selects


@pytest.mark.parametrize(
    "text", ["a*", "**/a", "a/**/b", "*a/b", "a/***", "", "a%2Fb", "\u0430", "a\\b", "a  b", " a", "a\n"]
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(PatternError):
        PathPattern.parse(text)


@pytest.mark.parametrize("text", ["*", "a%41", "a%", "\x7f", "caf\u00e9", "x" * 257, "a\u200bb", "a\u202eb"])
def test_what_is_not_plain(text: str) -> None:
    assert not is_plain(text)


def test_callers_of_tokens() -> None:
    pattern = CallerPattern.parse("oidc:https://ci.example:repo:octo-org/app:ref:*")
    assert pattern.is_oidc
    assert pattern.subject_of("https://ci.example") == "repo:octo-org/app:ref:*"
    assert pattern.subject_of("https://ci") is None
    assert pattern.matches(oidc_name("https://ci.example", "repo:octo-org/app:ref:main"))
    assert not pattern.matches(oidc_name("https://ci.example", "repo:octo-org/app:ref:a/b"))
    for wrong in ("oidc:ci.example:x", "oidc:https://*:x", "oidc:https://ci.example", "oidc:", "oidc:https://c*/p:x"):
        with pytest.raises(CallerNameError):
            CallerPattern.parse(wrong)


@pytest.mark.parametrize(
    "issuer", ["ci.example", "http://ci.example", "https://ci.example?x", "https://a b", "https://" + "a" * 140]
)
def test_what_is_no_issuer(issuer: str) -> None:
    with pytest.raises(CallerNameError):
        check_issuer(issuer)
