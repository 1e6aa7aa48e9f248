"""FFCV's file format, `.beton`: its layout, a reader that trusts nothing, and a writer.

Stock ffcv reads what `writer` writes, and `reader` reads what stock ffcv wrote. The layout is
ffcv's own, not ours to change; `sidecar` is the record that an export leaves beside a file.
"""
