"""Batches: what a loader shows of a store, made into batches, those of several stores joined.

`batch` is what users hold; it needs torch, as `deliver` and `concatenate` do. The other modules
import none of these until the first batch is made.
"""
