"""The entry point: `corral`, and `python -m corral`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import TextIOWrapper
from typing import NoReturn

_NO_THREAD = "can't start new thread"  # Python's own words; there is no type for it
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Run the command line; until a command takes the signals into its own hands, Ctrl-C ends the process at once.

    Python's own handler raises KeyboardInterrupt wherever the program happens to be. In an import, that is at times a
    weakref callback, whose exceptions are printed and dropped: the signal would be lost, and the command started.
    """
    # Whoever blocks signals and executes this would have it deaf: a mask is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        # A letter that the terminal's encoding does not have is no reason to say nothing at all.
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    from corral.cli import app

    try:
        app()
    except SystemExit:
        if why := _lost_output():
            _complain(f"what it has to say cannot be written: {why}")
        raise
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        _complain("the host refuses another thread: end some processes, or raise the limit (ulimit -u, a pids limit)")
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _lost_output()
        _complain(f"{error.filename or 'what it has to say'} cannot be written: {error.strerror}")


def _lost_output() -> str:
    """Why standard output does not take what is in its buffer; empty where it does, or where nobody reads it."""
    if sys.stdout is None or sys.stdout.closed:
        return ""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return ""
    except OSError as error:
        # The interpreter would try it once more at the exit, and complain in its own way.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error.strerror or str(error)
    return ""


def _complain(why: str) -> NoReturn:
    sys.stderr.write(f"corral: {why}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
