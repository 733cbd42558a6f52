"""The audit trail: every decision is on disk before its answer leaves, in a tree that cannot be changed unseen.

Workers write through `segments.Journal` (or `front.AuditFront` from asyncio); the supervisor runs one
`sequencer.Sequencer`; any worker serves proofs with `reader.LogReader`; `verify` and `receipts` check all of it from
the outside. `merkle`, `checkpoint` and `receipts` need the standard library and cryptography alone.
"""
