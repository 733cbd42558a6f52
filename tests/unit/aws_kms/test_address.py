"""The awskms URI and the settings."""

from __future__ import annotations

import pytest

from privyseal_backends.aws_kms.address import (
    Connection,
    KeyAddress,
    endpoint_fault,
    is_aws_endpoint,
    is_fips_endpoint,
    parse_uri,
)
from privyseal_backends.aws_kms.settings import Settings, parse_settings
from privyseal_backends.interface import CallerError, OperatorError

ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_ID = "00000000-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{ID}"
ALIAS_ARN = "arn:aws:kms:eu-west-1:111122223333:alias/build/app_1"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
ROLE = "arn:aws:iam::111122223333:role/path/signer"
PLAIN = Settings()


@pytest.mark.parametrize(
    ("uri", "key_id", "connection"),
    [
        (f"awskms:///{ARN}", ARN, Connection(region="eu-west-1")),
        (f"AWSKMS:///{ARN}?region=eu-west-1", ARN, Connection(region="eu-west-1")),
        (f"awskms:///{ALIAS_ARN}", ALIAS_ARN, Connection(region="eu-west-1")),
        (f"awskms:///{ARN.replace(':', '%3A')}", ARN, Connection(region="eu-west-1")),
        ("awskms:///alias/app", "alias/app", Connection()),
        (f"awskms:///{ID}?region=us-gov-west-1", ID, Connection(region="us-gov-west-1")),
        (f"awskms:///{MRK}?region=eusc-de-east-1", MRK, Connection(region="eusc-de-east-1")),
        (
            f"awskms:///{ARN.replace(ID, MRK).replace('arn:aws:', 'arn:aws-cn:')}",
            ARN.replace(ID, MRK).replace("arn:aws:", "arn:aws-cn:"),
            Connection(region="eu-west-1"),
        ),
        (
            "awskms:///alias/app?profile=the%20farm&role=" + ROLE + "&fips=true"
            "&endpoint=https%3A%2F%2Fvpce-1-2.kms.eu-west-1.vpce.amazonaws.com&sts_endpoint=http://[::1]:4566",
            "alias/app",
            Connection(
                endpoint="https://vpce-1-2.kms.eu-west-1.vpce.amazonaws.com",
                sts_endpoint="http://[::1]:4566",
                profile="the farm",
                role=ROLE,
                fips=True,
            ),
        ),
        ("awskms:///alias/app?fips=false", "alias/app", Connection(fips=False)),
    ],
)
def test_uris(uri: str, key_id: str, connection: Connection) -> None:
    assert parse_uri(uri, PLAIN.defaults) == KeyAddress(key_id, connection)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("pkcs11:token=a", "not an awskms URI"),
        (f"awskms:{ARN}", "three slashes"),
        (f"awskms://{ARN}", "three slashes"),
        (f"awskms://localhost:4566/{ARN}", "three slashes"),
        ("awskms:///", "ARN, its alias"),
        ("awskms:///app", "ARN, its alias"),
        ("awskms:///alias/", "ARN, its alias"),
        ("awskms:///alias/a b", "ARN, its alias"),
        ("awskms:///alias/a%0A", "ARN, its alias"),
        ("awskms:///alias/%FF", "UTF-8"),
        (f"awskms:///{ARN}/", "ARN, its alias"),
        (f"awskms:///{ARN.replace('kms', 's3')}", "ARN, its alias"),
        (f"awskms:///{ARN.replace('1111', '')}", "ARN, its alias"),
        (f"awskms:///{ID.upper()}", "ARN, its alias"),
        (f"awskms:///{ARN}#x", "no fragment"),
        (f"awskms:///{ARN}?region=us-east-1", "not the one in the ARN"),
        (f"awskms:///{ARN}?", None),
        (f"awskms:///{ARN}?regoin=eu-west-1", "not known"),
        (f"awskms:///{ARN}?pin-value=1234", "not known"),
        (f"awskms:///{ARN}?fips=true&fips=true", "gives fips twice"),
        (f"awskms:///{ARN}?fips", "fips in an awskms URI is empty"),
        (f"awskms:///{ARN}?fips=1", "not true or false"),
        (f"awskms:///{ARN}?fips=True", "not true or false"),
        (f"awskms:///{ARN}?profile=", "not the name of a profile"),
        (f"awskms:///{ARN}?profile=a%0Ab", "not the name of a profile"),
        ("awskms:///alias/a?region=Ireland", "not the name of a Region"),
        ("awskms:///alias/a?region=eu-west-1.evil.example", "not the name of a Region"),
        (f"awskms:///{ARN}?role=signer", "not the ARN of a role"),
        (f"awskms:///{ARN}?role={ROLE.replace(':role/', ':user/')}", "not the ARN of a role"),
        (f"awskms:///{ARN}?endpoint=http://kms.example", "loopback only"),
        (f"awskms:///{ARN}?endpoint=kms.example", "not https://HOST"),
        (f"awskms:///{ARN}?sts_endpoint=ftp://kms.example", "not https://HOST"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str | None) -> None:
    if words is None:  # an empty query is no query
        assert parse_uri(uri, PLAIN.defaults).key_id == ARN
        return
    with pytest.raises(CallerError, match=words) as caught:
        parse_uri(uri, PLAIN.defaults)
    assert caught.value.remedy


def test_a_refusal_repeats_no_value_of_the_query() -> None:
    with pytest.raises(CallerError) as caught:
        parse_uri(f"awskms:///{ARN}?endpoint=https://user:hunter2@kms.example", PLAIN.defaults)
    assert "hunter2" not in str(caught.value)
    assert "user name or a password" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://kms.eu-west-1.amazonaws.com", ""),
        ("https://kms.example:8443/", ""),
        ("http://127.0.0.1:4566", ""),
        ("http://127.9.9.9", ""),
        ("http://localhost:4566", ""),
        ("http://[::1]:4566", ""),
        ("http://127.0.0.1.example", "is plain http"),
        ("http://10.0.0.1", "is plain http"),
        ("http://localhost.example", "is plain http"),
        ("https://kms.example/path", "holds more"),
        ("https://kms.example?x=y", "holds more"),
        ("https://kms.example#x", "holds more"),
        ("https://a@kms.example", "user name"),
        ("https://kms.example:99999", "not one"),
        ("https://[::1", "not one"),
        ("https://kms.exa\nmple", "characters"),
        ("https://kms.exa mple", "characters"),
        ("https://kms.exämple", "characters"),
        ("https://kms.example:0", "is not https://HOST"),
        ("https://", "is not https://HOST"),
        ("https:kms.example", "is not https://HOST"),
        ("", "is not https://HOST"),
    ],
)
def test_endpoints(url: str, fault: str) -> None:
    found = endpoint_fault(url)
    assert fault in found
    assert bool(fault) == bool(found)


@pytest.mark.parametrize(
    ("url", "aws", "fips"),
    [
        ("https://kms.eu-west-1.amazonaws.com", True, False),
        ("https://kms-fips.us-east-1.amazonaws.com", True, True),
        ("https://kms-fips.us-gov-west-1.api.aws", True, True),
        ("https://kms.cn-north-1.amazonaws.com.cn", True, False),
        ("https://kms.eusc-de-east-1.amazonaws.eu", True, False),
        ("https://vpce-0a1b-2c.kms.eu-west-1.vpce.amazonaws.com", True, False),
        ("https://vpce-0a1b-2c.kms-fips.eu-west-1.vpce.amazonaws.com", True, True),
        ("http://kms.eu-west-1.amazonaws.com", False, False),
        ("http://127.0.0.1:4566", False, False),
        ("https://kms.eu-west-1.amazonaws.com.example", False, False),
        ("https://amazonaws.com", False, False),
        ("https://evil-1.eu-west-1.elb.amazonaws.com", False, False),
        ("https://kms.eu-west-1.elb.amazonaws.com", False, False),
        ("https://vpce-0a-b.vpce-svc-0c.eu-west-1.vpce.amazonaws.com", False, False),
        ("https://kmsXeu-west-1.amazonaws.com", False, False),
        ("https://my-kms-fips.example", False, False),
    ],
)
def test_whose_endpoint_it_is(url: str, aws: bool, fips: bool) -> None:
    assert (is_aws_endpoint(url), is_fips_endpoint(url)) == (aws, fips)


@pytest.mark.parametrize(
    ("asked", "region", "answered", "fits"),
    [
        (ARN, "eu-west-1", ARN, True),
        (ARN, "eu-west-1", ARN.replace(ID, OTHER_ID), False),
        (ARN, "eu-west-1", ARN.replace("1111", "2222"), False),
        (ARN, "eu-west-1", ARN.replace("arn:aws:", "arn:aws-cn:"), False),
        (ALIAS_ARN, "eu-west-1", ARN, True),
        (ALIAS_ARN, "eu-west-1", ARN.replace("1111", "2222"), False),
        (ALIAS_ARN, "eu-west-1", ARN.replace("eu-west-1", "us-east-1"), False),
        (ALIAS_ARN, "eu-west-1", ALIAS_ARN, False),
        ("alias/app", "eu-west-1", ARN, True),
        ("alias/app", "us-east-1", ARN, False),
        ("alias/app", "eu-west-1", "", False),
        (ID, "eu-west-1", ARN, True),
        (ID, "eu-west-1", ARN.replace(ID, OTHER_ID), False),
        (ID, "us-east-1", ARN, False),
        (ARN, "us-east-1", ARN, False),
        (MRK, "eu-west-1", ARN.replace(ID, MRK), True),
    ],
)
def test_which_answers_fit_an_address(asked: str, region: str, answered: str, fits: bool) -> None:
    assert KeyAddress(asked, Connection()).names(answered, region) is fits


def test_settings() -> None:
    read = parse_settings(
        {
            "region": "eu-west-1",
            "endpoint": "http://127.0.0.1:1",
            "sts_endpoint": "https://sts.example",
            "profile": "farm",
            "role": ROLE,
            "fips": False,
            "connections": 4,
            "group_connections": 2,
            "connect_timeout_s": 1,
            "read_timeout_s": 0.5,
            "open_timeout_s": 30,
            "quota_per_s": 800,
            "probe": False,
        }
    )
    defaults = Connection("eu-west-1", "http://127.0.0.1:1", "https://sts.example", "farm", ROLE, fips=False)
    assert read == Settings(defaults, 4, 2, 1, 0.5, 30, 800, probe=False)
    assert parse_settings({}) == Settings()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"regoin": "eu-west-1"}, "does not know 'regoin'"),
        ({"region": 1}, "region .* is not a text"),
        ({"region": "Ireland"}, "not the name of a Region"),
        ({"endpoint": "http://kms.example"}, "loopback only"),
        ({"fips": "true"}, "fips .* is not true or false"),
        ({"probe": 1}, "probe .* is not true or false"),
        ({"connections": 0}, "whole number from 1 to 512"),
        ({"connections": 2.5}, "whole number"),
        ({"connections": True}, "whole number"),
        ({"read_timeout_s": 0}, "number from 0.05 to 60"),
        ({"read_timeout_s": 61}, "number from 0.05 to 60"),
        ({"read_timeout_s": float("nan")}, "number from"),
        ({"quota_per_s": "many"}, "number from"),
        ({"quota_per_s": False}, "number from"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        parse_settings(settings)


def test_a_uri_wins_over_the_settings() -> None:
    settings = parse_settings({"region": "us-east-1", "profile": "farm", "fips": True, "role": ROLE})
    connection = parse_uri("awskms:///alias/a?region=eu-west-1&fips=false", settings.defaults).connection
    assert connection == Connection(region="eu-west-1", profile="farm", role=ROLE, fips=False)
    assert parse_uri(f"awskms:///{ARN}", settings.defaults).connection.region == "eu-west-1"
