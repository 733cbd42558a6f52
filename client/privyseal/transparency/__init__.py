"""What anyone needs to check the audit trail: Merkle trees, signed checkpoints and receipts. No I/O.

The service keeps the log with the same code with which everybody else checks it. It needs the standard library and
only cryptography; docs/decisions/0004-audit-trail.md explains why it is here.
"""
