"""Where bytes lie: this disk, a URL, a bucket, the cache between them.

Every write, fsync, rename and link of a store goes through `disk`; every read of a store goes
through a `Files`: `local` has that of this machine, `remote` those of URLs, which also have a
`BlobCache`. What builders publish goes through an `Upstream`: the folder itself, or a bucket, of
which `working_copy` has the small files. What others rely on: a file appears whole or not at all,
and bytes of a download that do not match their size and sha256 are never returned. A token goes
to the origin that `tokens` binds it to, and to no other. How downloads are tried again and what
the cache keeps may change freely.
"""
