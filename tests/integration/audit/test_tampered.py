"""What `audit verify` finds in the trail of a service that was tampered with, also by who owns host and key."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal import SignatureScheme
from privyseal_service.audit.keys import load_key
from privyseal_service.audit.sequencer import Sequencer
from tests.integration.audit.conftest import Farm, make_farm
from tests.support.pki import CA


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey) -> Farm:
    """A farm whose service made some signatures, sent its checkpoints elsewhere, and stopped."""
    farm = make_farm(tmp_path_factory.mktemp("tampered"), audit_ca, audit_private_key)
    farm.configure(audit='sinks = [{ kind = "file", path = "elsewhere" }]\n')
    with farm.serving() as serving:
        with farm.client(serving) as client:
            for number in range(8):
                client.sign_checksum(hashlib.sha256(b"%d" % number).digest(), scheme=SignatureScheme.CAPGO_V3)
        assert serving.stop() == 0
    assert farm.verify("--checkpoint", farm.folder / "elsewhere").returncode == 0
    return farm


@pytest.fixture
def trail(original: Farm, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(original.audit, tmp_path / "audit"))


def verify(farm: Farm, trail: Path, *more: object) -> tuple[int, str]:
    done = farm.server("audit", "verify", trail, "--public-key", farm.vkey, *more)
    return done.returncode, done.stdout + done.stderr


def bundle(trail: Path) -> Path:
    """The newest entry bundle."""
    return max(trail.glob("log/tile/entries/000.p/*"), key=lambda path: int(path.name))


def segment(trail: Path) -> Path:
    return trail / "segments" / "w0" / "0000000001.jsonl"


def test_a_changed_record_is_found_and_named(original: Farm, trail: Path) -> None:
    path = bundle(trail)
    path.write_bytes(path.read_bytes().replace(b'"outcome":"answered"', b'"outcome":"refusedd"', 1))
    code, said = verify(original, trail)
    assert code == 1
    assert re.search(r"WRONG\s+record 1\b", said), said


def test_a_line_taken_out_of_a_segment_is_found(original: Farm, trail: Path) -> None:
    path = segment(trail)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    code, said = verify(original, trail)
    assert code == 1
    assert "WRONG" in said


def test_a_checkpoint_signed_by_another_key_is_found(original: Farm, trail: Path) -> None:
    path = trail / "log" / "checkpoint"
    text = path.read_text()
    signature = text.rstrip("\n").rsplit(" ", 1)[1]
    path.write_text(text.replace(signature, signature[:-8] + ("A" * 6) + "=="))
    code, said = verify(original, trail)
    assert code == 1
    assert "log/checkpoint" in said


def rewrite(farm: Farm, trail: Path) -> None:
    """What whoever owns host and key can do: take a record out of the past, number the rest again, sign a new tree."""
    path = segment(trail)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = lines[:4] + lines[5:]
    path.write_bytes(
        b"".join(re.sub(rb'^\{"v":1,"n":\d+', b'{"v":1,"n":%d' % n, line) for n, line in enumerate(kept, 1))
    )
    shutil.rmtree(trail / "log")
    shutil.rmtree(trail / "sequencer")
    sequencer = Sequencer(trail, load_key(farm.folder / "audit.key"))
    while sequencer.merge():
        pass
    sequencer.close()


def test_a_rewritten_log_holds_by_itself_and_not_against_an_outside_checkpoint(original: Farm, trail: Path) -> None:
    (trail / "segments" / "w0" / "synced").unlink()
    rewrite(original, trail)
    assert verify(original, trail)[0] == 0, "the forger was careless, so this shows nothing"
    code, said = verify(original, trail, "--checkpoint", original.folder / "elsewhere")
    assert code == 1
    assert "WRONG" in said


def test_the_service_does_not_start_on_a_log_that_does_not_hold(original: Farm, farm: Farm) -> None:
    shutil.copytree(original.audit, farm.audit)
    for name in ("audit.key", "audit.vkey"):
        (farm.folder / name).unlink()
        shutil.copy(original.folder / name, farm.folder / name)
    (farm.audit / "log" / "checkpoint").unlink()
    done = farm.server("serve", "--config", farm.place.config)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"the audit trail in \S+ does not hold: log/checkpoint: is missing", done.stderr), done.stderr
