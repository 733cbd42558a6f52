"""The commands of `privyseal-server`, a module each.

It imports `runtime` and the rooms before it. Begin with `serve.py`.
"""
