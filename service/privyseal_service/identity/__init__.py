"""Who calls: client certificates, OIDC tokens, and the key sets that sign these tokens.

It imports `telemetry` and the rooms before it. Begin with `certificates.py`.
"""
