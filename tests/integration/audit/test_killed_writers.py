"""SIGKILL under load: no answered record is missing, none comes twice, torn lines are set aside."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import orjson

from privyseal.transparency.checkpoint import Signer, VerifierKey, open_checkpoint
from privyseal.transparency.merkle import leaf_hash, root_of, verify_consistency
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.domain.replica import Source
from tests.support import audit

ROUNDS = 100


def test_a_hundred_kills_lose_nothing_that_was_answered(tmp_path):
    seed = random.randrange(1 << 32)
    script = Path(audit.__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(ROUNDS), str(seed)], stdout=subprocess.PIPE, check=False, timeout=200
    )
    assert done.returncode == 0, seed
    told = json.loads(done.stdout)
    for worker in ("w0", "w1"):  # what a next worker does: note how the last one ended
        Journal(tmp_path, Source("replica-1", worker)).close()
    sequencer = Sequencer(tmp_path, Signer.parse(told["private"]))
    while sequencer.merge():
        pass
    sequencer.close()

    reader = LogReader(tmp_path)
    size = reader.checkpoint()[1].size
    entries = [record for _, record in reader.records(0, size)[0]]
    leaves = [leaf_hash(entry).hex() for entry in entries]
    assert len(told["answered"]) > ROUNDS, "the load was none"
    assert set(told["answered"]) <= set(leaves), seed
    assert len(set(leaves)) == len(leaves), seed
    numbers: dict[str, list[int]] = {"w0": [], "w1": []}
    for entry in map(orjson.loads, entries):
        numbers[entry["worker"]].append(entry["n"])
    for worker, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), (worker, seed)

    keys = [VerifierKey.parse(told["key"])]
    published = [open_checkpoint(note.encode(), keys) for note in told["published"]]
    root = root_of([bytes.fromhex(leaf) for leaf in leaves])
    for checkpoint in published[:: max(1, len(published) // 200)]:
        proof = reader.consistency(checkpoint.size, size)
        verify_consistency(checkpoint.size, size, proof, checkpoint.root, root)
    assert len({checkpoint.size for checkpoint in published}) > ROUNDS // 4
