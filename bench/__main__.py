"""`python -m bench [--quick] [--markdown] [--only NAME]`."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Section
from bench.keeper import run_below_keeper

RESULTS = Path(__file__).with_name("results.json")
PARTS = ("ending", "starting", "memory", "large", "calls", "reading", "streaming", "crowd", "first-word")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: tuple[int, ...] = (0, 2_000, 8_000)
    rounds: int = 9
    large: int = 1_000
    large_rounds: int = 3
    starts: int = 25
    weighs: int = 3
    reads: int = 9
    deltas: int = 20_000
    streams: int = 9
    crowds: tuple[int, ...] = (1, 10, 50, 200)
    crowd_rounds: int = 5
    endings: int = 3
    words: int = 7


QUICK = Scale(
    sizes=(0, 1_000),
    rounds=2,
    large=150,
    large_rounds=1,
    starts=5,
    weighs=1,
    reads=3,
    deltas=4_000,
    streams=2,
    crowds=(1, 10),
    crowd_rounds=1,
    endings=1,
    words=1,
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Corral beside what it replaces.")
    parser.add_argument("--quick", action="store_true", help="a small version, in two minutes")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part only (may be repeated)")
    return parser.parse_args()


def main(chosen: argparse.Namespace, keeper: int) -> int:
    """Measure, print, write results.json."""
    # Only below the keeper: they bring a good deal along, which the keeper has no use for.
    from bench import crowd, ending, firstword, output, reading, starting, streaming
    from bench.ground import Ground, say

    scale = QUICK if chosen.quick else Scale()
    began = time.monotonic()
    ground = Ground(keeper)
    parts: dict[str, Callable[[], Section]] = {
        "ending": lambda: ending.codex_section(ground, scale.sizes, scale.rounds),
        "starting": lambda: starting.start_section(ground, scale.starts),
        "memory": lambda: starting.memory_section(ground, scale.large, scale.weighs),
        "large": lambda: ending.large_section(ground, scale.large, scale.large_rounds),
        "calls": lambda: ending.sudo_calls_section(ground, scale.large),
        "reading": lambda: reading.reading_section(ground, scale.sizes, scale.reads),
        "streaming": lambda: streaming.streaming_section(ground, scale.deltas, scale.streams),
        "crowd": lambda: crowd.crowd_section(ground, scale.crowds, scale.deltas, scale.crowd_rounds, scale.endings),
        "first-word": lambda: firstword.first_word_section(ground, scale.words),
    }
    wanted = [name for name in chosen.only or PARTS if ground.lacking is None or name not in {"ending", "calls"}]
    try:
        if ground.lacking is not None:
            say(f"nothing is measured across accounts: {ground.lacking}")
        sections = [parts[name]() for name in wanted]
    finally:
        ground.close()
    facts = {**output.machine(), "seconds": round(time.monotonic() - began)}
    try:
        output.to_file(sections, facts, RESULTS)
    except OSError as error:
        say(f"the figures are not in {RESULTS.name}: {error.strerror}")
    if chosen.markdown:
        sys.stdout.write(output.to_markdown(sections, facts))
    else:
        output.to_terminal(sections, facts)
    return 0


if __name__ == "__main__":
    options = arguments()
    run_below_keeper(lambda keeper: main(options, keeper))
