"""The processes of a running service: the service itself, its workers, their supervisor, reload, preflight and
restarts.

It imports `api` and the rooms before it. Begin with `service.py`, then `worker.py` and `supervisor.py`.
"""
