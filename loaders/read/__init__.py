"""Cached views from where they are: shards here, ranges of remote ones, copies in memory.

What is read was checked as `verify` says. How bytes are fetched, mapped, copied and kept is free.
"""
