"""Grants, issuers and limits as they are written: what each says, and the sentence for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from privyseal_service.config.loading import load_config
from privyseal_service.config.tables import Config, ConfigError
from privyseal_service.domain.grants import Counted, Grants
from privyseal_service.domain.names import CallerNameError, CallerPattern, check_issuer, oidc_name
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.patterns import PathPattern, PatternError, is_plain
from privyseal_service.runtime.reload import needs_restart
from tests.unit.service.test_config import GRANT, KEY, LISTENER

OIDC = """
[[listeners]]
address = "127.0.0.1:0"
auth = "oidc"
certificate = "server.pem"
certificate_key = "keys/server.pem"
"""
ISSUER = """
[[issuers]]
issuer = "https://ci.example"
audiences = ["privyseal"]
jwks_file = "jwks.json"
claims = ["repository", "ref"]
"""
OIDC_GRANT = GRANT.replace("dns:a.build.example", "oidc:https://ci.example:repo:octo-org/app:*:refs/heads/**")
HEAD = '[server]\nstate_folder = "state"\n'


def load(tmp_path: Path, text: str) -> Config:
    (tmp_path / "server.toml").write_text(text)
    return load_config(tmp_path / "server.toml")


# --- patterns ---


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


# --- what is written ---


def test_all_of_a_grant(tmp_path: Path) -> None:
    grant = OIDC_GRANT + (
        'claims = { repository = "octo-org/*", ref = ["refs/heads/main", "refs/tags/*"] }\n'
        'window = { days = ["mon", "tue"], hours = "08:00-18:00", timezone = "Europe/Berlin" }\n'
        'context = ["app_id"]\nrate = "100/second"\ndaily_quota = 5000\ncounted = "caller"\npriority = 5\n'
    )
    config = load(tmp_path, HEAD + OIDC + ISSUER + KEY + grant)
    found = config.grants[0].grant()
    assert (found.rate.amount, found.rate.window_s) == (100, 1)  # type: ignore[union-attr]
    assert (found.daily_quota, found.counted, found.priority, found.context) == (5000, Counted.CALLER, 5, ("app_id",))
    assert found.hours is not None
    assert found.hours.text == "mon, tue 08:00-18:00 Europe/Berlin"
    assert found.origin == f"{tmp_path}/server.toml"
    assert config.server.state_folder == tmp_path / "state"
    assert config.issuers[0].jwks_file == tmp_path / "jwks.json"
    caller = "oidc:https://ci.example:repo:octo-org/app:ref:refs/heads/main"
    claims = (("repository", "octo-org/app"), ("ref", "refs/tags/v1"))
    assert list(Grants([found]).of_caller(caller, claims)) == ["demo"]
    assert Grants([found]).of_caller(caller) == {}
    assert Grants([found]).of_caller(caller, (("repository", "octo-org/app"), ("ref", "refs/tags/a/b"))) == {}


@pytest.mark.parametrize(
    ("text", "window_s"),
    [("1/second", 1), ("6000 / minutes", 60), ("500/5 minutes", 300), ("9/2hours", 7200), ("1/day", 86400)],
)
def test_rates(tmp_path: Path, text: str, window_s: int) -> None:
    config = load(tmp_path, HEAD + LISTENER + KEY + GRANT + f'rate = "{text}"\n')
    rate = config.grants[0].grant().rate
    assert rate is not None
    assert rate.window_s == window_s


def test_grants_in_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "grants.d"
    folder.mkdir()
    (folder / "b.toml").write_text(GRANT.replace("farm", "b"))
    (folder / "a.toml").write_text(GRANT.replace("farm", "a1") + GRANT.replace("farm", "a2"))
    (folder / ".c.toml").write_text("junk")
    (folder / "d.toml~").write_text("junk")
    text = '[server]\ngrants_folder = "grants.d"\n' + LISTENER + KEY + GRANT
    config = load(tmp_path, text)
    assert [grant.name for grant in config.grants] == ["farm", "a1", "a2", "b"]
    assert config.grants[2].grant().origin == f"{folder}/a.toml"
    assert config.files == (tmp_path / "server.toml", folder, folder / "a.toml", folder / "b.toml")
    for content, says in (
        ("junk", "a.toml: is not TOML"),
        ("", "a.toml: grants: is missing"),
        (GRANT + "[server]\nworkers = 1\n", "a.toml: server: there is no such setting"),
        (
            GRANT.replace("farm", "x") + GRANT.replace("demo", "other").replace("farm", "y"),
            "a.toml: grants[1].keys: there is no key named",
        ),
        (GRANT, "grants: two have the name 'farm' (the other in "),
        (
            GRANT.replace("farm", "x") + "rates = 1\n",
            "a.toml: grants[0].rates: there is no such setting; did you mean rate?",
        ),
    ):
        (folder / "a.toml").write_text(content)
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, text)
        assert says in str(caught.value)
    (folder / "a.toml").unlink()
    (folder / "a.toml").symlink_to(folder / "none")
    with pytest.raises(ConfigError, match=r"a\.toml: is no file, or a link to none"):
        load(tmp_path, text)
    with pytest.raises(ConfigError, match="is no folder of grants"):
        load(tmp_path, text.replace("grants.d", "none"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (OIDC + KEY, 'issuers: a listener with auth = "oidc" needs an issuer'),
        (LISTENER + ISSUER + KEY, 'issuers: there is no listener with auth = "oidc"'),
        (OIDC.replace('certificate = "server.pem"\n', "") + ISSUER + KEY, 'auth = "oidc" needs certificate'),
        (LISTENER.replace("mtls", "oidc") + ISSUER + KEY, "by their tokens alone: take away client_cas"),
        (OIDC + ISSUER + ISSUER + KEY, "issuers[1].issuer: two are the same"),
        (
            OIDC + ISSUER + ISSUER.replace("ci.example", "ci.example:8443") + KEY,
            "issuers[0].issuer: another issuer's name",
        ),
        (OIDC + ISSUER.replace("https:", "http:") + KEY, "issuers[0].issuer: an issuer is https; http may"),
        (OIDC + ISSUER.replace("jwks_file", "x_file") + KEY, "there is no such setting; did you mean jwks_file?"),
        (OIDC + ISSUER + 'jwks_url = "https://ci.example/k"\n' + KEY, "needs jwks_file or jwks_url, one of them"),
        (
            OIDC + ISSUER.replace('jwks_file = "jwks.json"', 'jwks_url = "http://ci.example/k"') + KEY,
            "must be https; http may",
        ),
        (
            OIDC + ISSUER.replace('jwks_file = "jwks.json"', 'jwks_url = "https://u:p@ci.example/k"') + KEY,
            "must be https://HOST",
        ),
        (OIDC + ISSUER + 'algorithms = ["HS256"]\n' + KEY, "issuers[0].algorithms[0]: input should be 'RS256'"),
        (OIDC + ISSUER + 'algorithms = ["none"]\n' + KEY, "issuers[0].algorithms[0]: input should be 'RS256'"),
        (OIDC + ISSUER + 'required_claims = { ref = "a*" }\n' + KEY, "issuers[0].required_claims: ref: * stands for"),
        (OIDC + ISSUER.replace('"ref"', '"certificate"') + KEY, "issuers[0].claims: must each be the name of a claim"),
        (OIDC + ISSUER.replace('["privyseal"]', "[]") + KEY, "issuers[0].audiences: must not be empty"),
        (
            OIDC + ISSUER + KEY + OIDC_GRANT.replace("ci.example", "other.example"),
            "is of none of the issuers in [[issuers]]",
        ),
        (
            OIDC + ISSUER + KEY + GRANT.replace("dns:a.build.example", "oidc:https://ci.example:**"),
            "is everybody who has a token",
        ),
        (
            OIDC + ISSUER + KEY + OIDC_GRANT + 'claims = { actor = "x" }\n',
            "grants[0].claims: actor is none of the claims",
        ),
        (
            OIDC + ISSUER + KEY + OIDC_GRANT + 'claims = { ref = "a*" }\n',
            "grants[0].claims: ref: * stands for one whole part",
        ),
        (LISTENER + KEY + GRANT + 'claims = { ref = "a" }\n', "grants[0]: claims: only tokens have claims"),
        (
            LISTENER.replace("dns:*.build.example", "oidc:https://ci.example:x") + KEY,
            "a CA cannot vouch for the subject",
        ),
        (
            LISTENER + KEY + GRANT + 'rate = "100/second"\n',
            "grants[0].rate: must be counted somewhere: set server.state",
        ),
        (LISTENER + KEY + GRANT + "daily_quota = 7\n", "grants[0].daily_quota: must be counted somewhere"),
        (HEAD + LISTENER + KEY + GRANT + 'rate = "fast"\n', "grants[0].rate: must be as 100/second, 6000/minute"),
        (HEAD + LISTENER + KEY + GRANT + 'rate = "0/second"\n', "grants[0].rate: must be as 100/second"),
        (HEAD + LISTENER + KEY + GRANT + "daily_quota = 0\n", "grants[0].daily_quota: input should be greater"),
        (LISTENER + KEY + GRANT + 'window = { hours = "8-18" }\n', "grants[0].window: must be HH:MM-HH:MM"),
        (LISTENER + KEY + GRANT + 'window = { days = ["monday"] }\n', "grants[0].window.days[0]: must be a day: mon"),
        (
            LISTENER + KEY + GRANT + 'window = { timezone = "Mars/Olympus" }\n',
            "grants[0].window: timezone must be one as",
        ),
        (LISTENER + KEY + GRANT + 'window = { timezone = "../../etc/passwd" }\n', "grants[0].window: timezone must be"),
        (LISTENER + KEY + GRANT + 'window = { hour = "x" }\n', "there is no such setting; did you mean hours?"),
        (
            LISTENER + KEY + GRANT + 'context = ["colour"]\n',
            "grants[0].context[0]: must be a field of the context: app_id",
        ),
        (LISTENER + KEY + GRANT.replace("farm", "fa\\u0000rm"), "grants[0].name: must be printable"),
        (LISTENER + KEY + 'state = "cold"\n', "keys[0].state: input should be 'serving' or 'frozen'"),
        (
            '[limits]\nstorage = "redis://:pw@h:1/0"\n' + LISTENER + KEY,
            "limits.storage: must not have a password in it",
        ),
        ('[limits]\nstorage = "memory://"\n' + LISTENER + KEY, "limits.storage: must be redis://HOST:PORT/DB"),
        (
            '[limits]\nwhen_away = "allow"\n' + LISTENER + KEY,
            "limits: when_away: is about a Redis, and storage names none",
        ),
        ('[limits]\nstorage = "redis://h"\nca_file = "x"\n' + LISTENER + KEY, "limits: ca_file: is for rediss://"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ":pw@" not in str(caught.value)


def test_reading_records_is_not_counted(tmp_path: Path) -> None:
    grant = GRANT.replace('keys = ["demo"]\n', "").replace("sign-checksum", "list-records")
    assert load(tmp_path, LISTENER + KEY + grant).grants[0].grant().operations == {Operation.LIST_RECORDS}
    with pytest.raises(ConfigError, match="list-records has no context, and is not counted"):
        load(tmp_path, HEAD + LISTENER + KEY + grant + 'rate = "1/second"\n')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("127.0.0.1:0", "127.0.0.1:7"), "addresses or auth"),
        (("[log]", '[log]\nlevel = "debug"'), "[log]"),
        (("sessions = 4", "sessions = 5"), "[stores]"),
        (("[log]", '[metrics]\naddress = "127.0.0.1:9464"\n[log]'), "[metrics]"),
        (("[log]", "[audit]\nenabled = false\n[log]"), "[audit]"),
        (("object=demo", "object=other"), ""),
        (("sign-checksum", "wrap-session-key"), ""),
    ],
)
def test_what_a_reload_cannot_change(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    text = "[log]\n[stores.pkcs11]\nsessions = 4\n" + LISTENER + KEY + GRANT
    said = needs_restart(load(tmp_path, text), load(tmp_path, text.replace(*change)))
    assert reason in said
    assert bool(reason) == bool(said)
