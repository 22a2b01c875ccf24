"""`python -m bench [--quick] [--markdown] [--only NAME]`."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import CannotRun, Section
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
    paced: int = 200  # deltas of the steady stream
    paced_for: float = 3.0  # seconds that each of a crowd streams


QUICK = Scale(
    sizes=(0,),
    rounds=1,
    large=60,
    large_rounds=1,
    starts=2,
    weighs=1,
    reads=1,
    deltas=1_000,
    streams=1,
    crowds=(3,),
    crowd_rounds=1,
    endings=1,
    words=1,
    paced=20,
    paced_for=0.5,
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Corral beside what it replaces.")
    parser.add_argument(
        "--quick", action="store_true", help="every part once and small: whether it still runs, in about a minute"
    )
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

    def across(measure: Callable[[], Section]) -> Section:
        if ground.lacking is not None:
            raise CannotRun(ground.lacking)
        return measure()

    parts: dict[str, Callable[[], Section]] = {
        "ending": lambda: across(lambda: ending.codex_section(ground, scale.sizes, scale.rounds)),
        "starting": lambda: starting.start_section(ground, scale.starts),
        "memory": lambda: starting.memory_section(ground, scale.large, scale.weighs),
        "large": lambda: ending.large_section(ground, scale.large, scale.large_rounds),
        "calls": lambda: across(lambda: ending.sudo_calls_section(ground, scale.large)),
        "reading": lambda: reading.reading_section(ground, scale.sizes, scale.reads),
        "streaming": lambda: streaming.streaming_section(ground, scale.deltas, scale.streams, scale.paced),
        "crowd": lambda: crowd.crowd_section(
            ground, scale.crowds, scale.deltas, scale.crowd_rounds, scale.endings, scale.paced_for
        ),
        "first-word": lambda: firstword.first_word_section(ground, scale.words),
    }
    sections: list[Section] = []
    failed = 0
    try:
        for name in chosen.only or PARTS:
            part_began = time.monotonic()
            try:
                section = parts[name]()
            except CannotRun as reason:
                say(f"{name}: skipped: {reason}")
            except Exception:  # noqa: BLE001 - one part that fails does not cost the figures of the others
                failed += 1
                say(f"{name}: failed\n{traceback.format_exc()}")
            else:
                sections.append(section)
                show(section, markdown=chosen.markdown)
                say(f"{name}: {time.monotonic() - part_began:.0f} s")
    finally:
        ground.close()
    facts = {**output.machine(), "seconds": round(time.monotonic() - began)}
    try:
        output.to_file(sections, facts, RESULTS)
    except OSError as error:
        say(f"the figures are not in {RESULTS.name}: {error.strerror}")
    sys.stdout.write(output.facts_line(facts) + "\n")
    return 1 if failed else 0


def show(section: Section, *, markdown: bool) -> None:
    """Print a table as soon as it is measured."""
    from bench import output

    if markdown:
        sys.stdout.write(output.to_markdown(section))
        sys.stdout.flush()
    else:
        output.to_terminal(section)


if __name__ == "__main__":
    options = arguments()
    run_below_keeper(lambda keeper: main(options, keeper))
