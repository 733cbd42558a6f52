"""The commands of `privyseal-server`, one module each: arguments, output and exit codes.

It imports `runtime` and the rooms before it, inside the commands, so that help is quick. Begin with `serve.py`.
"""
