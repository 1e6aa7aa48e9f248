"""The bytes of a store: records, shards, params, plans, commits, index and manifest; pure.

Bytes in, values out; nothing here opens a file, and nothing is imported but `errors`. What these
modules write is docs/format.md: stores of this version hold it, so it changes only together with
that page, its golden tests and, where old stores would read otherwise, the format version. How a
module computes it is free.
"""
