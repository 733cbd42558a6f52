"""The path of a call: authorization, typed operation, scheduler, key store, and one decision on record whatever
happens.

It imports `audit` and the rooms before it. Begin with `call_path.py`.
"""
