"""The audit trail: every decision is on disk before its answer leaves, in a tree that cannot be changed unseen.

Workers write through `segments.Journal` (or `front.AuditFront` from asyncio); the supervisor runs one
`sequencer.Sequencer`; any worker serves proofs with `reader.LogReader`; `verify` checks all of it. What others need to
check it too, hashes, checkpoints and receipts, is `privyseal.transparency`.
"""
