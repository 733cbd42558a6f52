"""The machine under the service: processes, sockets, pipes, files, CPUs, HTTP with a time limit, escaping, rate limits.

It imports nothing else of the service. Begin with `hardening.py`, which every process calls first.
"""
