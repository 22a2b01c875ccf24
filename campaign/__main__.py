"""`python -m campaign [--trees N] [--seconds S] [--seed N] [--fault NAME] [--worlds N]`."""

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.ground import Slot, raise_ground
from campaign.play import BAD, COUNTS
from campaign.scenario import FAULTS, draw

MOST_SHOWN = 5
PROGRESS_EVERY = 5.0


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m campaign", description="Random trees, random faults; counts what is left, harmed, and false."
    )
    parser.add_argument("--trees", type=int, default=1_000, help="how many (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time, however many trees it were")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="play each seed so often")
    parser.add_argument("--fault", choices=list(FAULTS), help="this fault only")
    parser.add_argument("--worlds", type=int, default=0, help="trees at a time (default: three for each core)")
    parser.add_argument("--tell", action="store_true", help="print the story of every tree")
    parser.add_argument("--keep-on", action="store_true", help="do not stop after the first hundred findings")
    parser.add_argument("--source", type=Path, help="judge another version: its src folder")
    parser.add_argument("--json", type=Path, help="write every result into this file, a line each")
    return parser.parse_args(given)


@dataclass
class Tally:
    """What was counted, by fault."""

    trees: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    bad: list[dict[str, Any]] = field(default_factory=list)
    excuses: Counter[str] = field(default_factory=Counter)

    def add(self, fault: str, result: dict[str, Any]) -> None:
        """Count one result."""
        self.trees[fault] += 1
        kinds = {count for count, _ in result["findings"]}
        for count in kinds:
            self.counts.setdefault(fault, Counter())[count] += 1
            self.seeds.setdefault(count, []).append(result["seed"])
        self.excuses.update({text.rpartition(": ")[2] for count, text in result["findings"] if count == "excused"})
        if kinds & set(BAD):
            self.bad.append(result)

    def total(self, count: str) -> int:
        """Return how many trees had such a finding."""
        return sum(counter[count] for counter in self.counts.values())

    def table(self) -> str:
        """The summary, a line for each fault."""
        lines = [f"{'fault':<18}{'trees':>7}" + "".join(f"{count:>10}" for count in COUNTS)]
        for fault in FAULTS:
            if self.trees[fault]:
                counter = self.counts.get(fault, Counter())
                lines.append(f"{fault:<18}{self.trees[fault]:>7}" + "".join(f"{counter[name]:>10}" for name in COUNTS))
        total = sum(self.trees.values())
        lines.append(f"{'all':<18}{total:>7}" + "".join(f"{self.total(name):>10}" for name in COUNTS))
        return "\n".join(lines)


class Place:
    """A process that plays one scenario after the other."""

    def __init__(self, slot: Slot) -> None:
        env = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(slot.python_path), "LANG": "C.UTF-8"}
        self._program = subprocess.Popen(
            [slot.python, "-B", "-m", "campaign.slots", slot.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            cwd="/",
            bufsize=0,
        )
        self._buffer = b""

    def fileno(self) -> int:
        assert self._program.stdout is not None
        return self._program.stdout.fileno()

    def give(self, order: dict[str, Any]) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps(order).encode() + b"\n")

    def take(self) -> dict[str, Any] | None:
        """Return a result if it is whole. Raises EOFError when the process has ended."""
        piece = os.read(self.fileno(), 1 << 20)
        if not piece:
            raise EOFError(f"a slot ended with status {self._program.wait()}")
        self._buffer += piece
        if not self._buffer.endswith(b"\n"):
            return None
        result: dict[str, Any] = json.loads(self._buffer)
        self._buffer = b""
        return result

    def close(self) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.kill()
        self._program.wait()
        self._program.stdin.close()
        self._program.stdout.close()


@dataclass
class Run:
    """One run: seeds are handed out, results are counted."""

    options: argparse.Namespace
    tally: Tally = field(default_factory=Tally)
    began: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def play(self, slots: Sequence[Slot]) -> None:
        """Play all of it."""
        orders = self._orders()
        places = [Place(slot) for slot in slots]
        busy = 0
        try:
            with selectors.DefaultSelector() as selector:
                for one in places:
                    selector.register(one, selectors.EVENT_READ)
                    busy += self._give(one, orders)
                while busy:
                    for key, _ in selector.select(1.0):
                        place = key.fileobj
                        assert isinstance(place, Place)
                        if (result := place.take()) is not None:
                            self._count(result)
                            busy += self._give(place, orders) - 1
                    self._progress()
        finally:
            for place in places:
                place.close()

    def _orders(self) -> Iterator[dict[str, Any]]:
        options = self.options
        seeds = range(options.seed, options.seed + options.trees)
        for seed in (seed for seed in seeds for _ in range(options.repeat)):
            if options.seconds and time.monotonic() - self.began > options.seconds:
                return
            if len(self.tally.bad) >= 100 and not options.keep_on:
                return
            yield {"seed": seed, "only": options.fault, "tell": options.tell}

    @staticmethod
    def _give(place: Place, orders: Iterator[dict[str, Any]]) -> int:
        order = next(orders, None)
        if order is None:
            return 0
        place.give(order)
        return 1

    def _count(self, result: dict[str, Any]) -> None:
        scenario = draw(result["seed"], only=self.options.fault)
        shown = len(self.tally.bad)
        self.tally.add(scenario.fault, result)
        if (len(self.tally.bad) > shown and shown < MOST_SHOWN) or self.options.tell:
            say(f"seed {result['seed']}: {scenario}\n" + "\n".join(result["story"]))
        if self.options.json:
            with self.options.json.open("a") as file:
                file.write(json.dumps({**result, "scenario": scenario.facts()}) + "\n")

    def _progress(self) -> None:
        now = time.monotonic()
        if now - self._told > PROGRESS_EVERY:
            self._told = now
            say(self.line())

    def line(self) -> str:
        """Where it stands, in one line."""
        trees, seconds = sum(self.tally.trees.values()), time.monotonic() - self.began
        counts = ", ".join(f"{name} {self.tally.total(name)}" for name in COUNTS)
        return f"{trees} trees in {seconds:.0f} s ({trees / max(seconds, 0.001):.1f} a second): {counts}"


def say(text: str) -> None:
    """Tell the person what is going on."""
    sys.stderr.write(f"campaign: {text}\n")
    sys.stderr.flush()


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaign. Status 0 when nothing was left, harmed or false."""
    options = arguments(given)
    worlds = options.worlds or 3 * (os.cpu_count() or 1)
    stage, slots = raise_ground(min(worlds, options.trees * options.repeat), options.source)
    try:
        if not slots:
            say(f"skipped: {stage.lacking}")
            return 77
        run = Run(options)
        run.play(slots)
    finally:
        stage.close()
    sys.stdout.write(run.tally.table() + "\n" + run.line() + "\n")
    for name in COUNTS:
        if seeds := run.tally.seeds.get(name):
            sys.stdout.write(f"{name}: seeds {' '.join(map(str, sorted(seeds)[:20]))}\n")
    for excuse, number in run.tally.excuses.most_common():
        sys.stdout.write(f"excused {number}: {excuse}\n")
    if run.tally.bad:
        fault = f" --fault '{options.fault}'" if options.fault else ""
        seed = run.tally.bad[0]["seed"]
        sys.stdout.write(f'again: make campaign ARGS="--seed {seed} --trees 1 --repeat 20{fault}"\n')
    return 1 if run.tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
