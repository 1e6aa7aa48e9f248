"""`viewstore`, and `python -m viewstore`: the command line."""

import signal


def main() -> None:
    """Run the command line; a stop signal that comes while it is loaded waits for its handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    from viewstore.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
