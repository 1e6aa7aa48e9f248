"""Views for other programs: which rows and columns go out, and the files that hold them.

One format is one module and one row in the table that the command line reads. An export of the
same selection gives the same bytes; what is there already, whole, is left alone.
"""
