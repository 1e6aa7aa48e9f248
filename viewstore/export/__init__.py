"""Views for other programs: which rows and columns are exported, and the files that hold them.

`selection` chooses, `formats` is the table of exporters that the command line reads; a new one is
one module and one row. Inside an exporter all may change but its bytes: the same selection gives
the same files in every version, a whole export is left alone, and no other file is ever replaced.
"""
