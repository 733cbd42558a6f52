"""Key URIs and settings."""

import pytest

from privyseal_backends.google_kms.address import GOOGLE, Endpoint, parse_endpoint, parse_uri
from privyseal_backends.google_kms.settings import Settings, parse_settings
from privyseal_backends.interface import CallerError, OperatorError

NAME = "projects/p-1/locations/europe-west6/keyRings/Ring_1/cryptoKeys/key-2/cryptoKeyVersions/12"


def test_a_uri_is_the_full_name_of_a_version():
    address = parse_uri(f"gcpkms://{NAME}")
    assert (address.name, address.endpoint, address.credentials_file) == (NAME, None, None)


def test_a_project_may_belong_to_a_domain():
    assert parse_uri(f"gcpkms://{NAME.replace('p-1', 'example.com:p-1')}").name.startswith("projects/example.com:p-1/")


def test_the_query_names_endpoint_and_credentials():
    address = parse_uri(f"gcpkms://{NAME}?endpoint=https%3A%2F%2Fkms.example%3A8443&credentials=file:/etc/sa.json")
    assert address.endpoint == Endpoint("kms.example", 8443)
    assert address.credentials_file == "/etc/sa.json"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"gcpkms:{NAME}", "does not begin with gcpkms://"),
        (f"awskms://{NAME}", "does not begin with gcpkms://"),
        ("gcpkms://" + NAME.rpartition("/cryptoKeyVersions")[0], "without a version"),
        ("gcpkms://" + NAME.rpartition("/cryptoKeyVersions")[0] + "/", "without a version"),
        ("gcpkms://" + NAME.rpartition("/")[0] + "/latest", "not the full resource name"),
        ("gcpkms://" + NAME.rpartition("/")[0] + "/0", "not the full resource name"),
        (f"gcpkms:///{NAME}", "not the full resource name"),
        (f"gcpkms://{NAME}/", "not the full resource name"),
        (f"gcpkms://{NAME}\n", "not the full resource name"),
        (f"gcpkms://{NAME}#1", "not the full resource name"),
        ("gcpkms://", "not the full resource name"),
        (f"gcpkms://{NAME}?region=eu", "'region' is unknown"),
        (f"gcpkms://{NAME}?endpoint", "'endpoint' has no value"),
        (f"gcpkms://{NAME}?endpoint=", "'endpoint' has no value"),
        (f"gcpkms://{NAME}?endpoint=a&endpoint=b", "twice"),
        (f"gcpkms://{NAME}?credentials=/etc/sa.json", "not named by a file"),
        (f"gcpkms://{NAME}?credentials=file:", "not named by a file"),
        (f"gcpkms://{NAME}?credentials=file:sa.json", "path is relative"),
        (f"gcpkms://{NAME}?endpoint=http://10.0.0.1:80", "loopback only"),
    ],
)
def test_any_other_uri_is_refused_with_a_reason(uri, said):
    with pytest.raises(CallerError) as met:
        parse_uri(uri)
    assert said in met.value.message
    assert met.value.remedy


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("cloudkms.googleapis.com", GOOGLE),
        ("https://kms.example", Endpoint("kms.example", 443)),
        ("kms.example:8443", Endpoint("kms.example", 8443)),
        ("http://127.0.0.1:9", Endpoint("127.0.0.1", 9, plaintext=True)),
        ("http://localhost:9", Endpoint("localhost", 9, plaintext=True)),
        ("http://[::1]:9", Endpoint("::1", 9, plaintext=True)),
    ],
)
def test_endpoints(text, endpoint):
    assert parse_endpoint(text) == endpoint


def test_an_ipv6_target_has_brackets():
    assert parse_endpoint("http://[::1]:9").target == "[::1]:9"
    assert parse_endpoint("kms.example:1").target == "kms.example:1"


@pytest.mark.parametrize(
    "text",
    [
        "http://kms.example:80",
        "http://127.0.0.1.example:80",
        "http://localhost",
        "ftp://kms.example",
        "https://kms.example:0",
        "https://kms.example:99999",
        "https://kms.example/v1",
        "https://kms.example?x=1",
        "https://user@kms.example",
        "https://",
        "unix:/run/kms",
    ],
)
def test_any_other_endpoint_is_refused(text):
    with pytest.raises(ValueError, match="endpoint"):
        parse_endpoint(text)


def test_settings_default_to_google_itself():
    assert parse_settings({}) == Settings()
    assert Settings().endpoint == GOOGLE


def test_every_setting_is_read():
    assert parse_settings(
        {
            "endpoint": "kms.example",
            "credentials_file": "/etc/sa.json",
            "attestation_roots": "/etc/roots.pem",
            "concurrency": 8,
            "attempt_timeout_s": 2,
            "open_timeout_s": 3.5,
            "quota_per_s": 50,
        }
    ) == Settings(Endpoint("kms.example", 443), "/etc/sa.json", "/etc/roots.pem", 8, 2.0, 3.5, 50.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"region": "eu"},
        {"quota_per_s": 0},
        {"quota_per_s": "many"},
        {"quota_per_s": True},
        {"endpoint": 1},
        {"endpoint": "http://kms.example:80"},
        {"credentials_file": ""},
        {"credentials_file": "sa.json"},
        {"attestation_roots": "~/roots.pem"},
        {"attestation_roots": ["a"]},
        {"concurrency": 0},
        {"concurrency": 1001},
        {"concurrency": True},
        {"concurrency": "8"},
        {"attempt_timeout_s": 0},
        {"attempt_timeout_s": True},
        {"attempt_timeout_s": float("nan")},
        {"open_timeout_s": 301},
        {"open_timeout_s": "1"},
    ],
)
def test_an_unknown_or_unfit_setting_is_the_operators_to_correct(settings):
    with pytest.raises(OperatorError) as met:
        parse_settings(settings)
    assert next(iter(settings)) in str(met.value)
