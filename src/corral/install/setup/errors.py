"""What goes wrong in a setup."""

from __future__ import annotations


class SetupError(Exception):
    """A step failed; the message says what happened, to what, and what to do."""
