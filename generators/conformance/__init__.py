"""What generators are held to, of packages and our own: `checks`, on the small `world`.

A check that is added here holds for all of them. `viewstore conformance` prints what they find, and
tests/conformance runs them on every generator of the table.
"""
