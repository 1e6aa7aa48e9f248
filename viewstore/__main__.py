"""`python -m viewstore` is the command line."""

from viewstore.cli.main import main

main()
