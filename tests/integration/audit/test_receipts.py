"""Receipts from the build's side: kept by `--receipt`, checked by `privyseal audit check`, end to end."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal._files import SMALL_FILE_BYTES
from privyseal.transparency.checkpoint import Signer
from tests.integration.audit.conftest import LOG, Farm, make_farm
from tests.support.pki import CA
from tests.support.serving import NO_AUDIT, Serving

CHECKSUM = hashlib.sha256(b"zip").hexdigest()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey) -> Farm:
    farm = make_farm(tmp_path_factory.mktemp("receipts"), audit_ca, audit_private_key)
    with zipfile.ZipFile(farm.build / "app.zip", "w") as archive:
        archive.writestr("index.html", "<!doctype html>")
    return farm


@pytest.fixture(scope="module")
def serving(shared: Farm) -> Iterator[Serving]:
    with shared.serving() as running:
        yield running


@pytest.fixture(scope="module")
def sealed(shared: Farm, serving: Serving) -> Farm:
    """A farm whose build has sealed app.zip and kept the receipts."""
    done = shared.privyseal(
        serving, "bundle", "encrypt", "app.zip", "--format", "capgo-v3", "--json", "--receipt", "receipts.json"
    )
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == ["checksum", "filename", "ivSessionKey"]
    (shared.build / "sealed.json").write_text(done.stdout)
    return shared


def receipts(farm: Farm, name: str = "receipts.json") -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((farm.build / name).read_text())
    return found


def test_a_sealed_bundle_is_on_record(sealed: Farm) -> None:
    """Without the service, with the log's public key alone."""
    done = sealed.privyseal(
        None, "audit", "check", "receipts.json", "--log-key", sealed.vkey, "--sealed", "sealed.json", "--json"
    )
    assert done.returncode == 0, done.stderr
    wrap, sign = json.loads(done.stdout)["on_record"]
    assert [each["record"]["operation"] for each in (wrap, sign)] == ["wrap-session-key", "sign-checksum"]
    assert sign["log"] == LOG
    assert sign["record"]["checksum"] == hashlib.sha256((sealed.build / "app.zip").read_bytes()).hexdigest()


def test_words(sealed: Farm) -> None:
    done = sealed.privyseal(None, "audit", "check", "receipts.json", "--log-key", str(sealed.log_key))
    assert done.returncode == 0, done.stderr
    assert [line[:9] for line in done.stdout.splitlines()] == ["on record", "on record"]
    assert "pass --signature or --sealed" in done.stderr


def test_a_signed_checksum_is_on_record(sealed: Farm, serving: Serving) -> None:
    sign = ("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3", "--receipt", "one.json")
    signature = sealed.privyseal(serving, *sign).stdout.strip()
    check = ("audit", "check", "one.json", "--log-key", sealed.vkey, "--signature")
    assert sealed.privyseal(None, *check, signature).returncode == 0
    other = sealed.privyseal(None, *check, signature.replace(signature[:2], "00" if signature[:2] != "00" else "11", 1))
    assert other.returncode == 1
    assert "is not on record in one.json" in other.stderr
    assert other.stdout == ""


def test_every_signature_of_a_release_is_on_record(sealed: Farm, serving: Serving) -> None:
    """So many that their receipts are larger than other files of the command line."""
    (sealed.build / "dist").mkdir()
    for number in range(600):
        (sealed.build / "dist" / f"{number}.txt").write_text(str(number))
    (sealed.build / "dist" / "index.html").write_text("<!doctype html>")
    seal = ("bundle", "seal", "dist", "--version", "1.0.0", "--output", "out", "--format", "capgo-v3", "--delta")
    done = sealed.privyseal(serving, *seal, "--receipt", "release.json")
    assert done.returncode == 0, done.stderr
    assert len(receipts(sealed, "release.json")["receipts"]) == 603
    assert (sealed.build / "release.json").stat().st_size > SMALL_FILE_BYTES
    update = json.loads((sealed.build / "out" / "update.json").read_text())
    check = ("audit", "check", "release.json", "--log-key", sealed.vkey, "--sealed", "out/update.json")
    signatures = [flag for entry in update["manifest"][:3] for flag in ("--signature", entry["file_hash"])]
    assert sealed.privyseal(None, *check, *signatures).returncode == 0
    (sealed.build / "other.json").write_text(json.dumps({**update, "checksum": "00" * 256}))
    done = sealed.privyseal(None, *check[:-1], "other.json")
    assert done.returncode == 1
    assert "the checksum in other.json is not on record" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.update(record=one["record"].replace("answered", "denied  ")), "leaf hash"),
        (lambda one: one.update(index=one["index"] + 1), "not shown to be in the log"),
        (lambda one: one.update(proof=[]), "not shown to be in the log"),
        (lambda one: one.update(leaf_hash="00" * 32), "leaf hash"),
        (lambda one: one.update(log="another.example"), "its checkpoint of"),
        (lambda one: one.update(checkpoint=one["checkpoint"].replace("\n\n", "x\n\n", 1)), "checkpoint does not count"),
        (lambda one: one.pop("checkpoint"), "has no proof yet"),
        (lambda one: one.pop("position"), "a receipt has no position"),
    ],
)
def test_every_change_is_found(sealed: Farm, change, said: str) -> None:
    body = receipts(sealed)
    change(body["receipts"][1])
    (sealed.build / "changed.json").write_text(json.dumps(body))
    done = sealed.privyseal(None, "audit", "check", "changed.json", "--log-key", sealed.vkey)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_exit_codes_of_check(sealed: Farm) -> None:
    check = ("audit", "check")
    key = ("--log-key", sealed.vkey)
    another = Signer.generate(LOG).verifier
    (sealed.build / "empty.json").write_text('{"privyseal_receipts": 1, "receipts": []}')
    for code, said, arguments in (
        (2, "without the log's public key nothing is proven", (*check, "receipts.json")),
        (2, "no such file", (*check, "nowhere.json", *key)),
        (2, "no such file", (*check, "receipts.json", "--log-key", "nowhere.vkey")),
        (2, "is not an Ed25519 vkey", (*check, "receipts.json", "--log-key", "a+b+c")),
        (1, "does not count", (*check, "receipts.json", "--log-key", another)),
        (1, "is not JSON", (*check, "app.zip", *key)),
        (1, "holds no receipt", (*check, "empty.json", *key)),
        (1, "neither hex nor base64", (*check, "receipts.json", *key, "--signature", "?!")),
        (1, "is not what `bundle encrypt --json` prints", (*check, "receipts.json", *key, "--sealed", "receipts.json")),
    ):
        done = sealed.privyseal(None, *arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr


def test_the_log_key_may_come_from_the_environment(sealed: Farm) -> None:
    another = Signer.generate("other.example").verifier
    done = sealed.privyseal(None, "audit", "check", "receipts.json", PRIVYSEAL_LOG_KEY=f"{another} {sealed.log_key}")
    assert done.returncode == 0, done.stderr


def test_a_proof_that_does_not_come_is_asked_for_again(farm: Farm) -> None:
    """All is signed and said; the exit code is that of what was out of time."""
    with farm.serving() as serving:
        tree = farm.audit / "log"
        hidden = tree.rename(tree.with_name("hidden"))
        tree.write_text("in the way")
        sign = ("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3", "--receipt", "late.json", "--timeout", "1")
        done = farm.privyseal(serving, *sign)
        assert (done.returncode, len(done.stdout.strip())) == (3, 512), done.stderr
        assert "all is signed, but the receipts in late.json have no proof yet" in done.stderr
        tree.unlink()
        hidden.rename(tree)
        proven = farm.privyseal(serving, "audit", "prove", "late.json")
        assert proven.returncode == 0, proven.stderr
        signature = done.stdout.strip()
        check = ("audit", "check", "late.json", "--log-key", farm.vkey, "--signature", signature)
        assert farm.privyseal(None, *check).returncode == 0
        assert "0 of 1 receipts were proven" in farm.privyseal(serving, "audit", "prove", "late.json").stderr


def test_a_service_without_an_audit_trail_gives_none(farm: Farm) -> None:
    text = farm.place.config.read_text()
    begin, end = text.index("[audit]"), text.index("[[listeners]]")
    farm.place.config.write_text(text[:begin] + NO_AUDIT + text[end:])
    (farm.build / "app.zip").write_bytes(b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + bytes(18))
    with farm.serving() as serving:
        assert "THERE IS NO AUDIT TRAIL" in serving.log
        for command in (
            ("checksum", "sign", CHECKSUM, "--scheme", "capgo-v3"),
            ("bundle", "encrypt", "app.zip", "--format", "capgo-v3", "--output", "sealed.zip"),
        ):
            assert farm.privyseal(serving, *command).returncode == 0
            (farm.build / "sealed.zip").unlink(missing_ok=True)
            done = farm.privyseal(serving, *command, "--receipt", "none.json")
            assert (done.returncode, done.stdout) == (1, "")
            assert "keeps no audit trail" in done.stderr
            assert not (farm.build / "none.json").exists()
            assert not (farm.build / "sealed.zip").exists()
