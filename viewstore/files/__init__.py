"""Where bytes lie: this disk, a URL, the cache between the two.

Every write, fsync, rename and link of a store goes through `disk`; every read of a store goes
through a `Files`, which `local` and `remote` are. What others rely on: a file appears whole or not
at all, and bytes that do not match their size and sha256 are never handed over. How downloads are
tried again and what the cache keeps may change freely.
"""
