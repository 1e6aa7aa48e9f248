"""Checkpoints of others, read without executing anything in them.

`read` takes a path, recognises the family by content, and returns tensors by canonical names. A
pickle is scanned first (`scan`), then run on a machine that knows a few harmless globals
(`machine`). Modules of torch.export are checked and written anew before torch sees them
(`exported`). Nothing here may ever import, call or build what a file names.
"""
