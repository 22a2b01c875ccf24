"""Corral runs each person's coding agent under that person's own account, and ends it so that nothing is left.

Nothing is imported here: the reaper starts in a bare interpreter and must not pay for the rest of the package.
"""

__version__ = "0.1.0"
