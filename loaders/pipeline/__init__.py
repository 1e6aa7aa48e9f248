"""Threads and memory: work planned ahead, done in slices, handed over in order.

It knows nothing of views: what is made, and of what, is a `Maker`'s affair. Nothing here decides
what a batch holds, so all of it may change for the sake of speed.
"""
