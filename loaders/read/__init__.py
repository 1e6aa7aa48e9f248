"""Cached views from where they lie: local shards, ranges of remote ones, copies in memory.

What is read is checked as `verify` says. How bytes are fetched, mapped and copied may change.
"""
