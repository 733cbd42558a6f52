"""What the service is about, without I/O and without gRPC: names, patterns, operations, requests, grants, errors, and
the decision on a call.

It imports `system` and the backends' interface. Begin with `operations.py`, then `grants.py` and `decisions.py`.
"""
