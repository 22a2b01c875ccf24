"""What an operator asks of a running service over its socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from corral.config import ConfigError
from corral.process import Report
from corral.remote.addresses import sockets
from corral.remote.client import NoServiceError, RefusedError, end_person

FAILED = 1


async def end(
    person: str,
    config: Path | None,
    *,
    as_json: bool,
    say: Callable[[str], None],
    out: Callable[[str], None],
    show: Callable[[Report], None],
) -> int:
    """End all backends of a person; 0 when nothing is left of them. `show`: shows a report, unless `as_json`."""
    try:
        places = sockets(config)
    except ConfigError as error:
        for fault in error.faults:
            say(fault)
        return FAILED
    for place in places:
        try:
            ended = await end_person(place, person)
        except (NoServiceError, RefusedError) as error:
            say(f"{place}: {error}")
            continue
        reports = [Report.from_json(one["report"]) for one in ended]
        if as_json:
            out(json.dumps({"person": person, "ended": ended}, indent=2))
        elif not reports:
            out(f"nothing of {person} runs")
        for report in reports if not as_json else ():
            show(report)
        return 0 if all(report.empty for report in reports) else FAILED
    if not places:
        say("no service runs here: nothing listens at its socket. `corral sweep` ends what a dead one left")
    return FAILED
