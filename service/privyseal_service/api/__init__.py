"""The gRPC server: listeners, TLS, handlers, wire forms, health and reflection.

It imports `signing` and the rooms before it. Begin with `handlers.py`.
"""
