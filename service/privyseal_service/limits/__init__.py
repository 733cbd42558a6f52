"""Rates and quotas of grants, and where they are counted.

It imports `identity` and the rooms before it. Begin with `limiter.py`.
"""
