"""Stores over HTTP: their files for readers, their pages for people. It only reads.

`app` has the routes, `objects` the names and answers, `local` and `through` bring the bytes from a
folder or through the cache from a URL, `guard` stands before all of it. What others rely on: the
addresses below /v1/stores/ and what HTTP says there (docs/serve.md), and the names of metrics.
"""
