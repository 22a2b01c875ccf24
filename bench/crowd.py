"""Many turns in one event loop: how much goes through, and how long the loop is not to be had."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench import talkers
from bench.figures import Aim, Figure, Section
from bench.ground import Driver, Ground, say
from bench.streaming import column, compared, in_turn
from bench.talkground import peer, talking

PACE = 20
"""Deltas a second of each engine: a rate that every contender keeps up with, with 200 on two cores."""
STALL_AT_MOST = 20.0
STALL = (("stall_ms", "longest stall"), ("own_ms", "of work of its own"), ("queued_ms", "of waiting for a core"))

Answers = dict[str, list[dict[str, Any]]]


def crowd_section(
    ground: Ground, sizes: Sequence[int], deltas: int, rounds: int, endings: int, paced_for: float
) -> Section:
    """Turns in so many backends at once, of so many deltas together, and then half of the backends ended at once."""
    figures: list[Figure] = []
    aims: list[Aim] = []
    for engine, number in (*(("codex", size) for size in sizes), ("claude", sizes[-1])):
        with ExitStack() as stack:
            services = _fleets(ground, stack, engine, number)
            before = {name: service.ask("weigh") for name, service in services.items()}
            started = _started(services, engine, number)
            say(f"crowd: {number} turns of {engine}")
            flood = in_turn(services, rounds, what="flood", deltas=deltas // number)
            paced = in_turn(services, rounds, what="pace", deltas=round(PACE * paced_for), rate=PACE)
            after = {name: service.ask("weigh") for name, service in services.items()}
            for service in services.values():
                service.ask("down")
            case = f"{engine}, {number} turns" if number > 1 else f"{engine}, 1 turn"
            figures += _turns(case, engine, flood, paced)
            aims.append(_aim(f"{case}, {PACE} a second each", paced))
            if number == sizes[-1]:
                figures += compared(f"{engine}, start of {number}", engine, started, "seconds", "s")
                figures += _weights(case, engine, number, before, after)
                ended = _ended(services, engine, number, endings)
                case = f"{engine}, {number // 2} of {number} end"
                figures += _stalls(case, engine, ended)
                figures += compared(f"{case}, until they have", engine, ended, "seconds", "s")
                aims.append(_aim(case, ended))
    text = (
        f"Scripted engines, a turn in each: at full speed, or {PACE} deltas a second of each. A stall is how much "
        "longer a sleep of 1 ms took. The rows under it are the longest that the loop's thread worked between two "
        "looks, and the longest that it waited for a core, which the engines, the reapers and the rest of the machine "
        "had meanwhile."
    )
    return Section("Many turns in one event loop", text, tuple(figures), tuple(aims))


def _fleets(ground: Ground, stack: ExitStack, engine: str, number: int) -> dict[str, Driver]:
    services: dict[str, Driver] = {}
    # With one turn it is the same with any executor.
    for name in talkers.contenders(engine, threads=number > 1):
        services[name] = talking(ground, engine, name, peer(ground, engine))
        stack.callback(services[name].close)
    return services


def _started(services: Mapping[str, Driver], engine: str, number: int) -> Answers:
    found: Answers = {}
    for name, service in services.items():
        say(f"crowd: starting {number} of {engine} for {talkers.label(engine, name)}")
        found[name] = [service.ask("up", number=number)]
    return found


def _ended(services: Mapping[str, Driver], engine: str, number: int, rounds: int) -> Answers:
    found: Answers = {name: [] for name in services}
    for _ in range(rounds):
        for name, service in services.items():
            say(f"crowd: ending {number // 2} of {number} of {engine} by {talkers.label(engine, name)}")
            service.ask("up", number=number)
            found[name].append(service.ask("end_some", number=number // 2, rate=PACE))
    return found


def _turns(case: str, engine: str, flood: Answers, paced: Answers) -> list[Figure]:
    return [
        *compared(f"{case}, full speed", engine, flood, "a_second", "deltas/s"),
        *compared(f"{case}, full speed, longest stall", engine, flood, "stall_ms", "ms"),
        *_stalls(f"{case}, paced", engine, paced),
        *compared(f"{case}, paced, median delay", engine, paced, "p50_us", "us"),
        *compared(f"{case}, full speed, CPU a delta", engine, flood, "cpu_us", "us"),
        *compared(f"{case}, all begun at once, longest stall", engine, paced, "begin_ms", "ms"),
    ]


def _stalls(case: str, engine: str, found: Answers) -> list[Figure]:
    return [figure for name, what in STALL for figure in compared(f"{case}, {what}", engine, found, name, "ms")]


def _weights(case: str, engine: str, number: int, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for name, weight in after.items():
        what = talkers.label(engine, name)
        grown = (weight["uss"] - before[name]["uss"]) * 1024 / number
        figures.append(Figure(f"{case}, threads of the process", what, "", (weight["threads"],)))
        figures.append(Figure(f"{case}, memory for each", what, "KB", (grown,), note=f"RSS {weight['rss']:.0f} MB"))
    return sorted(figures, key=lambda figure: figure.case)


def _aim(case: str, found: Answers) -> Aim:
    stall = statistics.median(column(found["corral"], "stall_ms"))
    return Aim(f"{case}: longest stall of the loop", stall, STALL_AT_MOST, "ms")
