"""`viewstore`, and `python -m viewstore`: the command line."""

import signal


def main() -> None:
    """Run the command line; a signal to stop that comes while it loads waits for its handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    from viewstore.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
