"""Checkpoints of others, read without executing anything in them.

`read` is the door: it tells the families apart and returns tensors. A pickle is scanned first
(`scan`), then run on a machine that knows a few harmless globals (`machine`). Nothing here may ever
import, call or build what a file names.
"""
