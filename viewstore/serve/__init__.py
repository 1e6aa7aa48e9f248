"""Stores over HTTP: their files for readers, their pages for people. It only reads.

`app` has the routes, `objects` the names and answers, `local` brings the bytes from a folder,
`through`, `origin` and `fill` from a URL through the cache, `guard` stands before all of it. What
others rely on: the addresses below /v1/stores/ and what HTTP says there (docs/serve.md), and the
names of metrics.
"""
