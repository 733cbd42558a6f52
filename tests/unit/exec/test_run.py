"""What is refused, warned of and judged around the run of a command."""

from __future__ import annotations

import shlex
import types

import pytest

from privyseal import capgo
from privyseal.errors import ConfigurationError, InputError, PrivysealError
from privyseal.exec import run
from privyseal.exec.words import understand
from privyseal.model import Key, KeyState, PublicKey, SignatureScheme, WrapScheme
from tests.support.signers import VECTORS


def check(words):
    run.check_command(understand(words), words)


@pytest.mark.parametrize("runtime", ["bun", "bunx", "deno"])
def test_foreign_runtimes_are_refused_with_what_to_do(runtime):
    with pytest.raises(InputError) as raised:
        check([runtime, "@capgo/cli", "bundle", "upload"])
    assert raised.value.message.startswith(f"{runtime} does not load the signing hook")
    assert "npx @capgo/cli" in raised.value.remedy


def test_an_upload_that_asks_to_be_unsigned_is_refused():
    with pytest.raises(InputError, match="--no-key uploads the bundle unsigned"):
        check(shlex.split("npx @capgo/cli bundle upload --no-key"))


def test_a_private_key_on_the_command_line_is_refused_and_not_shown():
    pem = (VECTORS / "capgo-v3" / "private.pem").read_text()
    with pytest.raises(InputError, match="private key among the words") as raised:
        check(["npx", "@capgo/cli", "bundle", "upload", "--key-data-v2", pem])
    assert pem.splitlines()[1] not in str(raised.value)


def test_an_ordinary_command_is_not_refused():
    check(shlex.split("npx @capgo/cli bundle upload --delta"))
    check(["make", "release"])


@pytest.mark.parametrize("version", ["8.50.3", "8.50.10", "8.61.0", "8.68.1"])
def test_tested_versions_pass(version, capsys):
    run.approve(version, strict=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "version",
    ["8.50.2", "8.68.2", "8.69.0", "7.125.4", "9.0.0", "8.68.1-beta.1", "8.68", "", "x.y.z", "8.6\u0660.1", None],
)
def test_other_versions_warn_and_fail_when_strict(version, capsys):
    run.approve(version, strict=False)
    warning = capsys.readouterr().err
    assert warning.startswith("privyseal exec: warning: ")
    assert ("8.50.3 to 8.68.1" in warning) == (version is not None)
    with pytest.raises(ConfigurationError, match="strict does not allow it"):
        run.approve(version, strict=True)


def tally(signed, failed):
    return types.SimpleNamespace(signed=signed, failed=failed)


UPLOAD = understand(shlex.split("npx @capgo/cli bundle upload"))
LIST = understand(shlex.split("npx @capgo/cli bundle list"))


@pytest.mark.parametrize(
    ("command", "signed", "failed", "allow_none", "code", "sentence"),
    [
        (UPLOAD, 2, 0, False, 0, None),
        (UPLOAD, 0, 0, False, 1, "no signature came through the signing agent"),
        (UPLOAD, 0, 0, True, 0, None),
        (UPLOAD, 2, 1, False, 1, "1 of its signatures were refused or failed"),
        (UPLOAD, 0, 3, True, 1, "3 of its signatures were refused or failed"),
        (LIST, 0, 0, False, 0, None),
        (LIST, 1, 0, False, 0, None),
    ],
)
def test_a_success_is_judged_by_what_came_through_the_agent(
    capsys, command, signed, failed, allow_none, code, sentence
):
    assert run.judge(command, tally(signed, failed), allow_none=allow_none) == code
    said = capsys.readouterr().err
    assert (sentence in said) if sentence else said == ""


def described(**changes):
    pem = (VECTORS / "capgo-v3" / "public.pem").read_text()
    public = capgo.load_public_key(pem)
    shown = PublicKey(capgo.spki_pem(public), pem, capgo.fingerprint(public), capgo.key_id(public), 2048)
    fields = {
        "name": "demo",
        "key_version": "01",
        "state": KeyState.SERVING,
        "wrap_schemes": (WrapScheme.CAPGO,),
        "signature_schemes": (SignatureScheme.CAPGO_V3,),
        "public_key": shown,
        "custody": None,
        **changes,
    }
    return Key(**fields)


class Directory:
    """A client that knows one key."""

    def __init__(self, key):
        self.key = key

    def get_key(self):
        return self.key


def test_a_key_of_capgo_is_chosen():
    signer = run.choose_signer(Directory(described()), None)
    assert signer.key == "demo"


@pytest.mark.parametrize(
    "changes",
    [
        {"wrap_schemes": ()},
        {"wrap_schemes": (WrapScheme.RSAES_OAEP_SHA256,)},
        {"signature_schemes": ()},
        {"signature_schemes": (SignatureScheme.RSASSA_PKCS1_V1_5_SHA256,)},
        {"public_key": None},
    ],
)
def test_a_key_that_cannot_serve_the_cli_is_refused_before_the_run(changes):
    with pytest.raises(PrivysealError, match=r'"demo" is not enrolled|has not opened the key demo'):
        run.choose_signer(Directory(described(**changes)), None)
