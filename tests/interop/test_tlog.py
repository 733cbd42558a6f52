"""The audit log against an independent verifier: golang.org/x/mod/sumdb, which Go's checksum database runs on.

The vectors that the C2SP documents print are in tests/unit/audit, without Go.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

from privyseal.transparency.checkpoint import Signer, open_checkpoint
from privyseal.transparency.merkle import leaf_hash
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.layout import Layout
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision
from tests.support.needed import program

SIGNER = Signer.generate("audit.example.com/replica-1")


def make_log(root: Path) -> list[bytes]:
    """A log of 70 full tiles and a bit, grown in uneven steps; the checkpoints on the way."""
    notes: list[bytes] = []
    journal = Journal(root, Source("replica-1", "w0"))
    sequencer = Sequencer(root, SIGNER, publish=notes.append)
    for step in (1, 200, 54, 1, 255, 256, 257, 1_000, 16_000):
        journal.append([decision(i) for i in range(step)])
        sequencer.merge()
    journal.close()
    sequencer.merge()
    sequencer.close()
    return notes


def b64(hashes) -> list[str]:
    return [base64.b64encode(item).decode() for item in hashes]


def questions(root: Path, notes: list[bytes]) -> dict:
    reader = LogReader(root)
    size = reader.checkpoint()[1].size
    inclusions = [reader.inclusion(index=i) for i in {0, 1, 255, 256, 257, 511, 512, 9_000, size - 2, size - 1}]
    old = [open_checkpoint(note, [SIGNER.verifier]) for note in notes]
    return {
        "public_key": str(SIGNER.verifier),
        "private_key": SIGNER.private_text(),
        "inclusion": [
            {"index": one.index, "leaf": b64([leaf_hash(one.record)])[0], "proof": b64(one.proof)} for one in inclusions
        ],
        "consistency": [
            {"checkpoint": note.decode(), "proof": b64(reader.consistency(checkpoint.size, size))}
            for note, checkpoint in zip(notes, old, strict=True)
            if checkpoint.size  # an empty tree has no proof in Go's code
        ],
    }


def run(folder: Path, root: Path, asked: dict) -> subprocess.CompletedProcess[str]:
    (folder / "questions.json").write_text(json.dumps(asked))
    command = [folder / "tlogcheck", Layout(root).log, folder / "questions.json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_go_accepts_every_tile_entry_proof_and_signature(tmp_path):
    module = Path(__file__).with_name("tlog")
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    subprocess.run([program("go"), "build", "-o", tmp_path / "tlogcheck", "."], cwd=module, env=environment, check=True)
    root = tmp_path / "audit"
    asked = questions(root, make_log(root))
    done = run(tmp_path, root, asked)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["size"] == told["entries"] == 18_026
    assert told["inclusion"] == 10
    assert told["consistency"] == 10
    assert told["signed"].encode() == (Layout(root).log / "checkpoint").read_bytes()

    # And it does look: a wrong leaf or a changed byte is refused.
    asked["inclusion"][3]["leaf"] = asked["inclusion"][4]["leaf"]
    assert run(tmp_path, root, asked).returncode == 1
    bundle = Layout(root).log / "tile/entries/007"
    bundle.write_bytes(bundle.read_bytes().replace(b"req-7", b"req-8", 1))
    done = run(tmp_path, root, asked | {"inclusion": [], "consistency": []})
    assert done.returncode == 1
    assert "does not have its hash" in done.stderr
