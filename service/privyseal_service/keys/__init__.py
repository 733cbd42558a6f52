"""The served keys: their stores, their state, enrolment, and the lockout after a refused PIN.

It imports `config` and the rooms before it. Begin with `keyring.py`.
"""
