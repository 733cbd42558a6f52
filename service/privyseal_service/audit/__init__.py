"""The audit trail: every decision is on disk before its answer leaves, in a Merkle tree whose history cannot be
rewritten unnoticed.

It imports `limits` and the rooms before it, and `privyseal.transparency`, which has what auditors need as well. Begin
with `record.py` and `journal.py`; then `sequencer.py` merges, `log_reader.py` serves proofs, and `verify.py` checks.
"""
