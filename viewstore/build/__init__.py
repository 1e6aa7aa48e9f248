"""A whole build: from a request to a manifest, and what mends or continues one.

`run` is the way from start to end: `planning` fixes rows and plan before the first shard, `compose`
brings settings and networks (`roles`) together into a plan and builders, `finalise` writes what
readers open. `rehearsal` tries a build on some samples, `repair` rebuilds damaged shards, `refresh`
builds a view set anew by newer networks. Over many machines a build is cut into `slices`, which a
`jobfile` starts; into a bucket it is built through `placed`.

This room and the command line are the only ones that see generators and training, inside
functions. Others rely on `BuildRequest`, `build` and `finalise`; the rest may change.
"""
