"""Reading a store: its view sets and params, conditions on them, and the proof that it is whole.

Nothing here writes. `store` and `view_set` are what users hold; `committed` reads what builders
published; `verify` checks every byte. Readers rely on two things: what is returned was checked,
and a damaged or missing file is an error that names it.
"""
