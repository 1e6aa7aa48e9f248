"""One shard, the unit of work: rendered, written, read back, committed; and who runs many.

`builder` renders the rows of a unit with a generator, `writer` lays them out as files, `commit`
publishes them. A shard exists from the moment its commit record is linked into place, and never
half. An executor (`engine` says what that is, `executors` lists them) decides where units run and
nothing else, so another one needs no change here but its row.

Others rely on `Sample` and `Rendered` (what generators take and give), on `Outcome`, and on the
order of writes and fsyncs, which is docs/format.md, Commit; a crash test counts them.
"""
