"""The entry point: `corral`, and `python -m corral`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; until a command takes the signals into its own hands, Ctrl-C ends the process at once.

    Python's own handler raises KeyboardInterrupt wherever the program happens to be. In an import, that is at times a
    weakref callback, whose exceptions are printed and dropped: the signal would be lost, and the command started.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from corral.cli import app

    app()


if __name__ == "__main__":
    main()
