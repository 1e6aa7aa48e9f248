"""One shard, the unit of work: rendered, written, read back, committed; and who runs many.

A shard exists from the moment its commit record is linked into place (`commit`), and never half.
`engine` decides where units run and nothing else: an executor that runs them elsewhere needs no
change here. The order of writes and fsyncs is docs/format.md, Commit; a crash test counts them.
"""
