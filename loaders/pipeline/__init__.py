"""Threads and memory: batches are planned ahead, made in slices, handed over in order.

Nothing here knows views: what is made, and of what, is decided by a `Maker`. No batch depends on
what happens here, so all of it may change for the sake of speed.
"""
