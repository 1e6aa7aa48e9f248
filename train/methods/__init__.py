"""Methods: each embeds views and scores pairs of them, one module and one row of `table` each.

A method names no strategy: what a strategy may ask about it is in its traits.
"""
