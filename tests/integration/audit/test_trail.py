"""What the trail of a running service holds: every decision, allowed or not, and never a secret."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate

from privyseal import RequestContext, SignatureScheme, WrapScheme
from privyseal.errors import PrivysealError
from tests.integration.audit.conftest import CALLER, LOG, Farm, make_farm
from tests.support.audit.json_schema import problems
from tests.support.pki import CA
from tests.support.serving import PROGRAM

STRANGER = "dns:stranger.build.example"
SESSION_KEY = os.urandom(16)
CONTEXT = RequestContext(app_id="com.example.app", bundle_version="1.2.3", build_url="https://ci.example/7")
DENIALS = 300


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class Day:
    """What was asked of a service, and what it answered."""

    farm: Farm
    signature: bytes = b""
    wrapped_key: bytes = b""
    request_id: str = ""
    batch: list[bytes] = field(default_factory=list)
    log: str = ""

    def decisions(self, **wanted: object) -> list[dict[str, object]]:
        """The decisions on record with these fields."""
        return [record for record in self.farm.records() if wanted.items() <= record.items()]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey) -> Day:
    """A service with two workers that was asked for all kinds of things, and stopped."""
    farm = make_farm(tmp_path_factory.mktemp("day"), audit_ca, audit_private_key)
    farm.configure(server="workers = 2", audit='sinks = [{ kind = "file", path = "elsewhere" }]\n')
    day = Day(farm)
    with farm.serving() as serving:
        with farm.client(serving, context=CONTEXT) as client:
            signed = client.sign_checksum(digest(b"zip"), scheme=SignatureScheme.CAPGO_V3, key="demo")
            day.signature, day.request_id = signed.signature, signed.request_id
            day.wrapped_key = client.wrap_session_key(SESSION_KEY, scheme=WrapScheme.CAPGO, key="demo").wrapped_key
            checksums = [digest(b"%d" % number) for number in range(600)]
            results = client.batch_sign_checksums(checksums, scheme=SignatureScheme.CAPGO_V3, key="demo")
            day.batch = [result.signature for result in results if not isinstance(result, PrivysealError)]
            client.list_keys()
            for scheme in (SignatureScheme.CAPGO_V2, SignatureScheme.RSASSA_PSS_SHA256):  # no grant; not enrolled
                with suppress(PrivysealError):
                    client.sign_checksum(digest(b"zip"), scheme=scheme, key="demo")
            with suppress(PrivysealError):
                client.wrap_session_key(SESSION_KEY + b"!", scheme=WrapScheme.CAPGO, key="demo")
        with farm.client(serving, STRANGER) as client:
            for _ in range(DENIALS):
                with suppress(PrivysealError):
                    client.sign_checksum(digest(b"zip"), scheme=SignatureScheme.CAPGO_V3, key="demo")
        assert serving.stop() == 0
        day.log = serving.log
    return day


def test_a_signature_is_on_record_with_all_of_it(day: Day) -> None:
    (record,) = day.decisions(request_id=day.request_id)
    certificate = load_pem_x509_certificate(day.farm.certificate(CALLER)[0].read_bytes())
    public_key = day.farm.place.run("check", "--config", str(day.farm.place.config), "--json")
    fingerprint = json.loads(public_key.stdout)["keys"][0]["fingerprint"]
    assert record["caller"] == {
        "name": CALLER,
        "proof": {"type": "certificate", "fingerprint": certificate.fingerprint(SHA256()).hex()},
    }
    assert str(record["peer"]).startswith("ipv4:127.0.0.1:")
    assert record["context"] == {
        "app_id": "com.example.app", "bundle_version": "1.2.3", "build_url": "https://ci.example/7",
    }  # fmt: skip
    assert record["signature_sha256"] == digest(day.signature).hex()
    assert record["checksum"] == digest(b"zip").hex()
    wanted = {"operation": "sign-checksum", "key": "demo", "key_version": "01", "key_fingerprint": fingerprint}
    assert (wanted | {"scheme": "capgo-v3", "grant": "farm"}).items() <= record.items()
    assert (record["outcome"], record["code"]) == ("answered", "OK")
    assert {"store_request_id", "queue_s", "store_s", "replica", "worker", "n", "time"} <= record.keys()


def test_a_wrapped_key_is_on_record_by_its_hash(day: Day) -> None:
    (record,) = day.decisions(operation="wrap-session-key", outcome="answered")
    assert record["wrapped_key_sha256"] == digest(day.wrapped_key).hex()
    assert "checksum" not in record


def test_each_of_a_batch_is_on_record(day: Day) -> None:
    found = day.decisions(batch=600)
    assert [record["item"] for record in found] == list(range(600))
    assert [record["signature_sha256"] for record in found] == [digest(each).hex() for each in day.batch]
    assert [record["checksum"] for record in found] == [digest(b"%d" % number).hex() for number in range(600)]


def test_what_was_not_allowed_is_on_record(day: Day) -> None:
    refused = [record for record in day.decisions(kind="decision") if record["outcome"] in ("denied", "refused")]
    of_the_farm = Counter(
        (record["operation"], record["outcome"], record["code"], record.get("reason"))
        for record in refused
        if record["caller"]["name"] == CALLER  # type: ignore[index]
    )
    assert of_the_farm == {
        ("sign-checksum", "denied", "PERMISSION_DENIED", "NO_GRANT"): 1,
        ("sign-checksum", "refused", "FAILED_PRECONDITION", "KEY_CANNOT"): 1,
        ("wrap-session-key", "refused", "INVALID_ARGUMENT", "INVALID_REQUEST"): 1,
    }


def test_a_flood_of_denials_is_counted(day: Day) -> None:
    alone = [r for r in day.decisions(outcome="denied") if r["caller"]["name"] == STRANGER]  # type: ignore[index]
    counted = [r for r in day.decisions(kind="denials") if r["caller"]["name"] == STRANGER]  # type: ignore[index]
    assert len(alone) < DENIALS
    assert len(alone) + sum(record["count"] for record in counted) == DENIALS  # type: ignore[misc]


def test_every_record_follows_the_schema(day: Day) -> None:
    schema = json.loads(files("privyseal_service.audit").joinpath("record.schema.json").read_text())
    found = day.farm.records()
    assert {record["kind"] for record in found} == {"decision", "denials", "segment", "stop"}
    assert [problem for record in found[::7] for problem in problems(record, schema)] == []


def test_no_session_key_is_anywhere(day: Day) -> None:
    """Neither in the trail nor in the logs, in no form: raw, hex, base64, hashed."""
    forms = [SESSION_KEY, digest(SESSION_KEY)]
    forms += [form.hex().encode() for form in forms] + [base64.b64encode(form) for form in forms]
    forms.append(SESSION_KEY.hex().upper().encode())
    places = [path for path in day.farm.audit.rglob("*") if path.is_file()]
    assert len(places) > 5
    for data in [day.log.encode(), *(path.read_bytes() for path in places)]:
        for form in forms:
            assert form not in data


def test_it_verifies_also_against_what_left_the_host(day: Day) -> None:
    done = day.farm.verify("--checkpoint", day.farm.folder / "elsewhere", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["log"]) == (0, True, LOG), done.stdout
    assert report["checkpoints"] > 2
    assert report["unmerged"] == 0
    assert report["records"] == len(day.farm.lines())


def test_it_is_exported_and_summed(day: Day) -> None:
    exported = day.farm.server("audit", "export", day.farm.audit, "--caller", CALLER, "--operation", "sign-checksum")
    assert len(exported.stdout.splitlines()) == 603
    summed = json.loads(day.farm.server("audit", "report", day.farm.audit, "--json").stdout)
    callers = {row["caller"]: (row["answered"], row["not_answered"]) for row in summed["by_caller"]}
    assert callers == {CALLER: (603, 3), STRANGER: (0, DENIALS)}


def test_files_are_private(day: Day) -> None:
    for path in [day.farm.audit, *day.farm.audit.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_checkpoints_on_standard_output_are_lines_that_verify_takes(farm: Farm) -> None:
    farm.configure(audit='sinks = [{ kind = "stdout" }]\n')
    process = subprocess.Popen(
        [PROGRAM, "serve", "--config", str(farm.place.config)],
        env=farm.place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("listening "):
                break
        process.terminate()
        lines += process.communicate(timeout=200)[0].splitlines(keepends=True)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    collected = farm.folder / "collected"
    collected.write_text("".join(line for line in lines if not line.startswith("listening ")))
    done = farm.verify("--checkpoint", collected, "--json")
    assert json.loads(done.stdout)["ok"], done.stdout
    assert json.loads(done.stdout)["checkpoints"] > 1
