"""Image datasets in: which samples there are, in which order, and the bytes of each.

A source is opened once (`open`) and its rows become a `SourceTable` (`table`), which the store
keeps (`record`); from then on `reader` needs nothing else. One kind of source is one module with a
`KIND` and one row in `kinds`. Keys and their order name the rows of a store: they never change.
"""
