"""Which process table this host has."""

from __future__ import annotations

import os

from corral.process.table import ProcessTable


def host_table() -> ProcessTable:
    """The table of this host."""
    # os.uname and not sys.platform: a type checker must not take one of the two for unreachable.
    if os.uname().sysname == "Linux":
        from corral.process import procfs

        return procfs
    from corral.process import psutil_table

    return psutil_table
