"""What operators see: the log, metrics and their Prometheus page, active issues, and the status socket.

It imports `keys` and the rooms before it. Begin with `metrics.py`.
"""
