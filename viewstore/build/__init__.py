"""A whole build: from a request to a manifest, and what mends or continues one.

`run` is the way from start to end, `compose` brings generators and networks together with a plan,
`adopt` fixes rows and plan before the first byte, `finalise` derives what readers open. This room
and the command line are the only ones that see generators and training, inside functions.
"""
