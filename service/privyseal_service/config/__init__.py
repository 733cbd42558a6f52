"""The service's configuration: its TOML tables, how they are loaded, and what must hold between them.

It imports `system` and `domain`. Begin with `tables.py`.
"""
