"""The command line: a module for each group of commands, over one table of names in `main`.

Commands take options apart (`options` has those that several share), call the rooms below, and
show what came back on the `terminal`, which is also the Progress of all that they run; they decide
nothing. Names of commands and options, exit codes and the keys of `--json` are fixed
(docs/errors.md); everything else in here may change.
"""
