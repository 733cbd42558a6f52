"""The names of callers and the patterns that select them: `spiffe://…`, `dns:NAME`, `cn:NAME`, `oidc:ISSUER:SUBJECT`
and `local:insecure`.

A name is checked and normalised before it is compared. Text with a wildcard, a percent-encoding, a non-ASCII letter, a
dot at its end or an empty part is not a name, so a name has one spelling. The issuer chooses the subject of a token, so
subjects follow the rules of `patterns.is_plain`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privyseal_service.domain.patterns import MOST_CHARACTERS, PathPattern, PatternError, is_plain

INSECURE = "local:insecure"
"""Every caller of a listener without authentication. Only a grant with exactly this name allows it anything."""

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_ISSUER = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~/-]*)?")
_COMMON_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9])?")


class CallerNameError(ValueError):
    """A text that is not a caller's name, or not a pattern of names. The message states the rule."""


def spiffe_name(uri: str) -> str:
    """Return the name of a SPIFFE ID (SPIFFE-ID, section 2: lower-case trust domain, no empty, `.` or `..` segment, no
    percent-encoding, at most 2,048 bytes). Raises CallerNameError."""
    _check_spiffe(uri, wildcards=False)
    return uri


def _check_spiffe(uri: str, *, wildcards: bool) -> list[str]:
    """Return the trust domain and the segments of a SPIFFE ID or, with `wildcards`, of a pattern."""
    if not uri.startswith("spiffe://") or len(uri) > 2048:
        raise CallerNameError("a SPIFFE ID is spiffe://TRUST-DOMAIN/PATH, in at most 2048 characters")
    domain, *segments = uri[len("spiffe://") :].split("/")
    if not _TRUST_DOMAIN.fullmatch(domain):
        raise CallerNameError("the trust domain of a SPIFFE ID has only lower-case letters, digits, dots, - and _")
    for place, segment in enumerate(segments):
        if wildcards and (segment == "*" or (segment == "**" and place == len(segments) - 1)):
            continue
        if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            also = "; * stands for one whole segment, ** at the end for one or more" if wildcards else ""
            raise CallerNameError(f"a segment of a SPIFFE ID has only letters, digits, dots, - and _{also}")
    return [domain, *segments]


def dns_name(value: str) -> str:
    """Return the name of a DNS subject alternative name, in lower case. Raises CallerNameError, also for wildcards: a
    certificate for many names proves none of them."""
    name = value.lower() if value.isascii() else value
    _check_dns(name)
    return f"dns:{name}"


def _check_dns(name: str) -> None:
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise CallerNameError("a DNS name has only labels of letters, digits, - and _ with dots between them")


def common_name(value: str) -> str:
    """Return the name of a subject's common name, unchanged. Raises CallerNameError."""
    if not _COMMON_NAME.fullmatch(value):
        raise CallerNameError("a common name has at most 64 characters, only ASCII letters, digits, spaces and . _ @ -")
    return f"cn:{value}"


def check_issuer(issuer: str) -> None:
    """Raise CallerNameError unless this is an issuer as tokens name it: an https URL, or http on a machine's own
    loopback, of at most 128 characters, without a query."""
    if len(issuer) > 128 or not _ISSUER.fullmatch(issuer):
        raise CallerNameError("an issuer is https://HOST[:PORT][/PATH], in at most 128 characters")
    if issuer.startswith("http://") and not re.match(r"http://(127\.0\.0\.1|\[::1\])(:[0-9]+)?(/|$)", issuer):
        raise CallerNameError("an issuer is https; http is allowed only on 127.0.0.1 or [::1]")


def oidc_name(issuer: str, subject: str) -> str:
    """Return the name of a token's subject, for an issuer that `check_issuer` accepts. Raises CallerNameError."""
    name = f"oidc:{issuer}:{subject}"
    if not subject or len(name) > MOST_CHARACTERS or not is_plain(subject):
        raise CallerNameError(
            "the token's subject must be printable ASCII without *, backslashes and percent-encodings, and no longer "
            f"than {MOST_CHARACTERS} characters together with its issuer"
        )
    return name


@dataclass(frozen=True, slots=True)
class CallerPattern:
    """Selects callers, by one exact name or by the parts of it.

    `spiffe://example/build/*` selects one whole segment more, `spiffe://example/build/**` one or more;
    `dns:*.build.example` selects exactly one label more. In `oidc:ISSUER:SUBJECT` the subject may be a path-aware
    pattern. A `cn:` name and `local:insecure` are always exact. A pattern of one kind never selects a name of another.
    """

    text: str
    _regex: re.Pattern[str] | None
    _path: PathPattern | None = None

    @classmethod
    def parse(cls, text: str) -> CallerPattern:
        """Parse a pattern. Raises CallerNameError."""
        kind, _, rest = text.partition(":")
        match kind:
            case "spiffe":
                parts = _check_spiffe(text, wildcards=True)
                return cls(text, _spiffe_regex(parts) if "*" in text else None)
            case "dns":
                one_more_label = rest.startswith("*.")
                name = rest[2:] if one_more_label else rest
                if name != name.lower():
                    raise CallerNameError("a DNS name is written in lower case")
                _check_dns(name)
                return cls(text, re.compile(r"dns:[^.]+\." + re.escape(name)) if one_more_label else None)
            case "cn":
                common_name(rest)
                return cls(text, None)
            case "oidc":
                return cls(text, None, _oidc_pattern(text))
            case _ if text == INSECURE:
                return cls(text, None)
            case _:
                known = f"spiffe://…, dns:NAME, cn:NAME, oidc:ISSUER:SUBJECT or {INSECURE}"
                raise CallerNameError(f"a caller is written {known}")

    @property
    def is_oidc(self) -> bool:
        """Whether the pattern selects subjects of tokens."""
        return self._path is not None

    def subject_of(self, issuer: str) -> str | None:
        """Return the subject's part of a pattern for tokens of this issuer; None for any other pattern."""
        start = f"oidc:{issuer}:"
        return self.text[len(start) :] if self.text.startswith(start) else None

    def matches(self, name: str) -> bool:
        """Return whether the pattern selects the caller of this name."""
        if self._path is not None:
            return self._path.matches(name)
        return name == self.text if self._regex is None else self._regex.fullmatch(name) is not None


def _oidc_pattern(text: str) -> PathPattern:
    """Parse `oidc:ISSUER:SUBJECT`. Only the configuration knows where the issuer ends."""
    host, _, rest = text.removeprefix("oidc:").partition("//")[2].partition(":")
    if not text.startswith(("oidc:https://", "oidc:http://")) or "*" in host or not host or not rest:
        raise CallerNameError("a token's caller is written oidc:https://ISSUER:SUBJECT, the issuer without wildcards")
    try:
        return PathPattern.parse(text)
    except PatternError as error:
        raise CallerNameError(str(error)) from None


def _spiffe_regex(parts: list[str]) -> re.Pattern[str]:
    wildcards = {"*": "[^/]+", "**": ".+"}
    return re.compile("spiffe://" + "/".join(wildcards.get(part) or re.escape(part) for part in parts))
