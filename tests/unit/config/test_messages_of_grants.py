"""The wording of each error of grants, issuers and limits in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configuration import (
    GRANT,
    ISSUER,
    KEY,
    LISTENER,
    OIDC_GRANT,
    OIDC_LISTENER,
    SERVER,
    refused,
)

WORDING = [
    (LISTENER + KEY + GRANT + GRANT, "grants[1].name: is the name of grants[0] too"),
    (LISTENER + KEY + GRANT.replace('"demo"', '"other"'), "grants[0].keys[0]: there is no key of this name"),
    (
        LISTENER + KEY + GRANT.replace("sign-checksum", "sign"),
        (
            "grants[0].operations[0]: must be an operation: wrap-session-key, sign-checksum, "
            "unwrap-session-key, list-records"
        ),
    ),
    (
        LISTENER + KEY + GRANT.replace("sign-checksum", "get-key"),
        (
            "grants[0].operations[0]: must be an operation: wrap-session-key, sign-checksum, "
            "unwrap-session-key, list-records"
        ),
    ),
    (LISTENER + KEY + GRANT.replace('["dns:a.build.example"]', "[]"), "grants[0].callers: must not be empty"),
    (LISTENER + KEY + GRANT.replace('["dns:a.build.example"]', "[7]"), "grants[0].callers[0]: must be a string"),
    (OIDC_LISTENER + KEY, 'issuers: a listener with auth = "oidc" needs an issuer'),
    (LISTENER + ISSUER + KEY, 'issuers: there is no listener with auth = "oidc"; add one, or remove the issuers'),
    (
        OIDC_LISTENER.replace('certificate = "server.pem"\n', "") + ISSUER + KEY,
        'listeners[0]: a listener with auth = "oidc" needs certificate',
    ),
    (
        LISTENER.replace("mtls", "oidc") + ISSUER + KEY,
        'listeners[0]: a listener with auth = "oidc" identifies callers by tokens only: remove client_cas',
    ),
    (OIDC_LISTENER + ISSUER + ISSUER + KEY, "issuers[1].issuer: is the same as issuers[0].issuer"),
    (
        OIDC_LISTENER + ISSUER + ISSUER.replace("ci.example", "ci.example:8443") + KEY,
        (
            "issuers[0].issuer: issuers[1].issuer begins with it and a colon, so that callers of the two "
            "could have the same name"
        ),
    ),
    (
        OIDC_LISTENER + ISSUER.replace("jwks_file", "x_file") + KEY,
        "issuers[0].x_file: there is no such setting; did you mean jwks_file?",
    ),
    (
        OIDC_LISTENER + ISSUER + 'jwks_url = "https://ci.example/k"\n' + KEY,
        "issuers[0]: an issuer needs either jwks_file or jwks_url",
    ),
    (
        OIDC_LISTENER + ISSUER.replace('jwks_file = "jwks.json"', 'jwks_url = "http://ci.example/k"') + KEY,
        "issuers[0].jwks_url: must be https; http is for 127.0.0.1 and [::1] only",
    ),
    (
        OIDC_LISTENER + ISSUER.replace('jwks_file = "jwks.json"', 'jwks_url = "https://u:p@ci.example/k"') + KEY,
        "issuers[0].jwks_url: must be https://HOST[:PORT]/PATH",
    ),
    (
        OIDC_LISTENER + ISSUER + 'algorithms = ["HS256"]\n' + KEY,
        (
            "issuers[0].algorithms[0]: must be 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256',"
            " 'ES384', 'ES512' or 'EdDSA'"
        ),
    ),
    (
        OIDC_LISTENER + ISSUER + 'algorithms = ["none"]\n' + KEY,
        (
            "issuers[0].algorithms[0]: must be 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256',"
            " 'ES384', 'ES512' or 'EdDSA'"
        ),
    ),
    (
        OIDC_LISTENER + ISSUER.replace('"ref"', '"certificate"') + KEY,
        (
            "issuers[0].claims: each must be the name of a claim, at most 64 characters, other than "
            "authority, certificate, issuer, serial, subject"
        ),
    ),
    (OIDC_LISTENER + ISSUER.replace('["privyseal"]', "[]") + KEY, "issuers[0].audiences: must not be empty"),
    (
        OIDC_LISTENER + ISSUER + KEY + OIDC_GRANT.replace("ci.example", "other.example"),
        "grants[0].callers[0]: none of [[issuers]] has this issuer",
    ),
    (
        OIDC_LISTENER + ISSUER + KEY + GRANT.replace("dns:a.build.example", "oidc:https://ci.example:**"),
        "grants[0].callers[0]: allows every token of the issuer; add claims",
    ),
    (
        OIDC_LISTENER + ISSUER + KEY + OIDC_GRANT + 'claims = { actor = "x" }\n',
        "grants[0].claims.actor: the issuer does not keep this claim; add it to claims in [[issuers]]",
    ),
    (
        LISTENER + KEY + GRANT + 'claims = { ref = "a" }\n',
        "grants[0]: claims need callers that are all oidc:ISSUER:SUBJECT, since only tokens have claims",
    ),
    (
        LISTENER + KEY + GRANT + 'rate = "100/second"\n',
        (
            "grants[0].rate: there is no place to count in; set server.state_folder, or limits.storage for "
            "replicas that count together"
        ),
    ),
    (
        LISTENER + KEY + GRANT + "daily_quota = 7\n",
        (
            "grants[0].daily_quota: there is no place to count in; set server.state_folder, or limits.storage"
            " for replicas that count together"
        ),
    ),
    (
        SERVER + LISTENER + KEY + GRANT + 'rate = "fast"\n',
        (
            "grants[0].rate: must be written as 100/second, 6000/minute or 500/5 minutes; units are second, "
            "minute, hour and day"
        ),
    ),
    (
        SERVER + LISTENER + KEY + GRANT + 'rate = "0/second"\n',
        (
            "grants[0].rate: must be written as 100/second, 6000/minute or 500/5 minutes; units are second, "
            "minute, hour and day"
        ),
    ),
    (
        SERVER + LISTENER + KEY + GRANT + "daily_quota = 0\n",
        "grants[0].daily_quota: must be greater than or equal to 1",
    ),
    (
        LISTENER + KEY + GRANT + 'window = { days = ["monday"] }\n',
        "grants[0].window.days[0]: must be a day: mon, tue, wed, thu, fri, sat, sun",
    ),
    (
        LISTENER + KEY + GRANT + 'window = { timezone = "Mars/Olympus" }\n',
        (
            "grants[0].window: timezone must be an IANA time zone such as Europe/Berlin; if it is one, "
            "install tzdata on this machine"
        ),
    ),
    (
        LISTENER + KEY + GRANT + 'window = { timezone = "../../etc/passwd" }\n',
        (
            "grants[0].window: timezone must be an IANA time zone such as Europe/Berlin; if it is one, "
            "install tzdata on this machine"
        ),
    ),
    (
        LISTENER + KEY + GRANT + 'window = { hour = "x" }\n',
        "grants[0].window.hour: there is no such setting; did you mean hours?",
    ),
    (
        LISTENER + KEY + GRANT + 'context = ["colour"]\n',
        ("grants[0].context[0]: must be a field of the context: app_id, bundle_version, source_revision, build_url"),
    ),
    (LISTENER + KEY + GRANT.replace("farm", "fa\\u0000rm"), "grants[0].name: must have printable characters only"),
    (
        '[limits]\nstorage = "redis://:pw@h:1/0"\n' + LISTENER + KEY,
        (
            "limits.storage: must not have a password in it; put the password in a file, and name the file in"
            " password_file"
        ),
    ),
    (
        '[limits]\nstorage = "memory://"\n' + LISTENER + KEY,
        "limits.storage: must be redis://HOST:PORT/DB, or rediss:// with TLS",
    ),
    (
        '[limits]\nwhen_away = "allow"\n' + LISTENER + KEY,
        "limits: without storage there is no Redis: remove when_away, or set storage",
    ),
    (
        '[limits]\nstorage = "redis://h"\nca_file = "x"\n' + LISTENER + KEY,
        "limits: ca_file needs a storage with TLS, rediss://",
    ),
    (LISTENER + KEY + GRANT.replace("farm", "f" * 129), "grants[0].name: must have at most 128 characters"),
    (LISTENER + KEY + GRANT.replace("farm", ""), "grants[0].name: must not be empty"),
    (
        OIDC_LISTENER + ISSUER.replace('["repository", "ref"]', str([f"c{n}" for n in range(13)])) + KEY,
        "issuers[0].claims: must have at most 12 values",
    ),
    (OIDC_LISTENER + ISSUER.replace('"ref"', '"repository"') + KEY, "issuers[0].claims: must not have a value twice"),
    (
        OIDC_LISTENER + ISSUER + 'jwks_ca_file = "ca.pem"\n' + KEY,
        "issuers[0]: jwks_ca_file needs a jwks_url with https",
    ),
    (
        OIDC_LISTENER + ISSUER + "required_claims = { ref = [] }\n" + KEY,
        "issuers[0].required_claims.ref: must be a string, or a list of at least one string",
    ),
    (
        OIDC_LISTENER + ISSUER + KEY + OIDC_GRANT + "claims = { ref = 7 }\n",
        "grants[0].claims.ref: must be a string, or a list of at least one string",
    ),
    (LISTENER + KEY + GRANT + "window = { days = [] }\n", "grants[0].window.days: must not be empty"),
    (LISTENER + KEY + GRANT + 'counted = "both"\n', "grants[0].counted: must be one of: grant, caller"),
    (
        SERVER + LISTENER + KEY + GRANT + 'rate = "1/99999 days"\n',
        "grants[0].rate: must have a window of at most 366 days",
    ),
    (
        LISTENER + KEY + GRANT.replace("sign-checksum", "list-records"),
        (
            "grants[0]: list-records reads the audit trail, not a key; give it a separate grant, without keys"
            " and schemes"
        ),
    ),
    (
        LISTENER
        + KEY
        + GRANT.replace('keys = ["demo"]', 'context = ["app_id"]').replace("sign-checksum", "list-records"),
        "grants[0]: list-records has no context and is not counted; remove context, rate and daily_quota",
    ),
    (LISTENER + KEY + GRANT.replace('keys = ["demo"]\n', ""), "grants[0]: keys must not be empty"),
    (
        '[limits]\nstorage = "redis://h/x"\n' + LISTENER + KEY,
        "limits.storage: must be redis://HOST:PORT/DB, and DB a number",
    ),
    (
        '[limits]\nstorage = "redis://h/1"\nprefix = "a b"\n' + LISTENER + KEY,
        "limits.prefix: must be letters, digits and . _ : -, at most 64",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), WORDING)
def test_the_wording(tmp_path: Path, text: str, sentence: str) -> None:
    assert refused(tmp_path, text) == sentence
