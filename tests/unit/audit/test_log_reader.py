"""Proofs served from the files: they hold, and what is not there is told apart from what was tampered with."""

from __future__ import annotations

import pytest

from privyseal.transparency.checkpoint import Signer, open_checkpoint
from privyseal.transparency.merkle import leaf_hash, verify_consistency, verify_inclusion
from privyseal_service.audit.errors import LogIntegrityError, NotInLogError
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.layout import Layout
from privyseal_service.audit.log_reader import LogReader
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision

SIGNER = Signer.generate("audit.example.com/replica-1")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of 600 decisions in three merges, the checkpoints, and what the journal said of each record."""
    root = tmp_path_factory.mktemp("audit")
    notes, written = [], []
    journal = Journal(root, Source("replica-1", "w0"))
    sequencer = Sequencer(root, SIGNER, publish=notes.append)
    for start in (0, 200, 400):
        written += journal.append([decision(i) for i in range(start, start + 200)])
        sequencer.merge()
    journal.close()
    sequencer.close()
    return root, [open_checkpoint(note, [SIGNER.verifier]) for note in notes], written


def test_every_record_is_found_by_what_its_answer_carried(log):
    root, checkpoints, written = log
    reader = LogReader(root)
    for one in written[::37] + written[-1:]:
        inclusion = reader.inclusion(leaf=one.leaf_hash)
        assert leaf_hash(inclusion.record) == one.leaf_hash
        checkpoint = open_checkpoint(inclusion.checkpoint, [SIGNER.verifier])
        assert checkpoint == checkpoints[-1]
        verify_inclusion(one.leaf_hash, inclusion.index, checkpoint.size, inclusion.proof, checkpoint.root)
        assert reader.inclusion(index=inclusion.index) == inclusion


def test_any_two_checkpoints_are_consistent(log):
    root, checkpoints, _ = log
    reader = LogReader(root)
    for old in checkpoints:
        for new in checkpoints[checkpoints.index(old) :]:
            verify_consistency(old.size, new.size, reader.consistency(old.size, new.size), old.root, new.root)
        assert reader.root(old.size) == old.root


def test_pages_of_records(log):
    root, checkpoints, _ = log
    reader = LogReader(root)
    size, found, at = checkpoints[-1].size, [], 0
    while at < size:
        page, at = reader.records(at, 70)
        assert len(page) <= 70
        found += page
    assert [index for index, _ in found] == list(range(size))
    assert reader.records(size, 10) == ([], size)
    assert reader.records(size + 5, 10) == ([], size + 5)
    wanted, at = reader.records(0, 1, lambda record: b'"request_id":"req-98"' in record)
    assert [index for index, _ in wanted] == [99]
    assert at == 100
    assert reader.records(0, 1, lambda record: b'"request_id":"req-400"' in record) == ([], 100)


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader: reader.inclusion(index=601),
        lambda reader: reader.inclusion(index=-1),
        lambda reader: reader.inclusion(),
        lambda reader: reader.inclusion(leaf=b"\0" * 32),
        lambda reader: reader.inclusion(leaf=b""),
        lambda reader: reader.inclusion(leaf=leaf_hash(reader.inclusion(index=0).record)[:31]),
        lambda reader: reader.consistency(0, 602),
        lambda reader: reader.consistency(5, 4),
        lambda reader: reader.root(602),
    ],
)
def test_what_is_not_there(log, ask):
    with pytest.raises(NotInLogError):
        ask(LogReader(log[0]))


def test_a_log_that_has_not_begun(tmp_path):
    with pytest.raises(NotInLogError, match="no checkpoint yet"):
        LogReader(tmp_path).checkpoint()


def test_only_the_newest_are_searched(log, monkeypatch):
    root, _, written = log
    monkeypatch.setattr("privyseal_service.audit.log_reader.SEARCHED_ENTRIES", 300)
    assert LogReader(root).inclusion(leaf=written[-1].leaf_hash)
    with pytest.raises(NotInLogError):
        LogReader(root).inclusion(leaf=written[0].leaf_hash)


def test_a_tampered_log_gives_no_proof(tmp_path):
    journal = Journal(tmp_path, Source("replica-1", "w0"))
    written = journal.append([decision(i) for i in range(20)])
    journal.close()
    sequencer = Sequencer(tmp_path, SIGNER)
    sequencer.merge()
    sequencer.close()
    path = Layout(tmp_path).log / "tile/entries/000.p/22"
    path.write_bytes(path.read_bytes().replace(b"req-7", b"req-8"))
    with pytest.raises(LogIntegrityError, match="record 8: does not lead to the root"):
        LogReader(tmp_path).inclusion(leaf=written[7].leaf_hash)
    assert LogReader(tmp_path).inclusion(leaf=written[6].leaf_hash).index == 7
