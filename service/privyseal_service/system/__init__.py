"""The machine under the service: sockets, CPUs, process hardening, file watching, token buckets, HTTP with a time
limit, escaping.

It imports nothing else of the service. Begin with `hardening.py`, which every process calls first.
"""
