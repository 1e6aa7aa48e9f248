"""What methods and strategies are held to, of packages and our own: `checks`, on a small `world`.

A check that is added here holds for all of them. `viewstore conformance` prints what they find, and
tests/conformance runs them on the whole matrix.
"""
