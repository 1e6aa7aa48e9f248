"""The command line: a module for each group of commands, over one table of names in `main`.

Commands take options apart, call the rooms below, and say what came of it; they decide nothing.
Names of commands and options, exit codes and the keys of `--json` are fixed (docs/errors.md).
"""
