"""What a client adds to each delta that an engine streams."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench import talkers
from bench.figures import Figure, Section, ratio
from bench.ground import Driver, Ground, say
from bench.talkground import peer, talking

ENGINES = ("codex", "claude")
PACE = 200


def in_turn(services: Mapping[str, Driver], rounds: int, **order: Any) -> dict[str, list[dict[str, Any]]]:
    """Give the same order to every contender, each round in another order of theirs; one round more warms up."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
    names = list(services)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            answer = services[name].ask(**order)
            if number:
                found[name].append(answer)
    return found


def column(answers: Sequence[Mapping[str, float]], name: str) -> tuple[float, ...]:
    """One figure of every round."""
    return tuple(answer[name] for answer in answers)


def compared(
    case: str, engine: str, found: Mapping[str, Sequence[Mapping[str, float]]], name: str, unit: str
) -> list[Figure]:
    """One figure of every contender, beside Corral's."""
    ours = column(found["corral"], name)
    lines = []
    for contender, answers in found.items():
        values = column(answers, name)
        lines.append(Figure(case, talkers.label(engine, contender), unit, values, ratio(values, ours)))
    return lines


def streaming_section(ground: Ground, deltas: int, rounds: int, paced: int) -> Section:
    """One turn: so many deltas as fast as the client takes them, and a steady stream."""
    figures: list[Figure] = []
    for engine in ENGINES:
        say(f"streaming: {engine}'s wire")
        names = talkers.contenders(engine)
        with ExitStack() as stack:
            services = {name: talking(ground, engine, name, peer(ground, engine)) for name in names}
            for service in services.values():
                stack.callback(service.close)
                service.ask("up", number=1)
            flood = in_turn(services, rounds, what="flood", deltas=deltas)
            steady = in_turn(services, rounds, what="pace", deltas=paced, rate=PACE)
            for service in services.values():
                service.ask("down")
        figures += compared(f"{engine}, at full speed", engine, flood, "a_second", "deltas/s")
        figures += compared(f"{engine}, CPU a delta", engine, flood, "cpu_us", "us")
        for name, what in (("p50_us", "median"), ("p99_us", "99th percentile")):
            case = f"{engine}, {PACE} a second, {what} of the delay"
            figures += compared(case, engine, steady, name, "us")
            ours, pipe = (column(steady[contender], name) for contender in ("corral", "bare"))
            added = tuple(mine - bare for mine, bare in zip(ours, pipe, strict=True))
            figures.append(Figure(case, "added by Corral to the bare reader", "us", added))
    text = (
        "One scripted engine, one turn. The delay is from the engine's write to the reader of the turn; at full speed "
        "the engine writes 64 KiB at once, so that nobody waits for it."
    )
    return Section("Streaming", text, tuple(figures))
