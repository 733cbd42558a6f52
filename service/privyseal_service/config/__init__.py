"""The service's configuration: one module for each TOML table, the loading of the file, and what a reload can change.

It imports `system` and `domain`. Begin with `root.py`, the whole configuration, then `loading.py`.
"""
