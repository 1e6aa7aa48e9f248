"""Strategies: each chooses views and rewrites the plan of pairs, a module and a row of `table`.

A strategy names no method: it asks for traits.
"""
