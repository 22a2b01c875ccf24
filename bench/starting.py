"""What the reaper adds to the start of a command, and what it weighs."""

import statistics
import time

from bench import readers
from bench.figures import Aim, Figure, Section, ratio
from bench.ground import Ground, say
from bench.trees import Tree, bush, wait_standing

COMMAND = ["/bin/sh", "-c", "echo up; read line"]
STARTS_WITHIN = 60.0
WEIGHS_AT_MOST = 12.0
MOMENTS = ("call returns", "first line of output")


def start_section(ground: Ground, rounds: int) -> Section:
    """`Job.start` beside `asyncio.create_subprocess_exec` of the same command."""
    figures: list[Figure] = []
    aims: list[Aim] = []
    for case, user in _routes(ground):
        say(f"starting: {case}")
        times = ground.driver("corral").ask("starts", argv=COMMAND, user=user, rounds=rounds)
        added: tuple[float, ...] = ()
        for index, moment in enumerate(MOMENTS):
            ours, theirs, bare = ([took[index] for took in times[name]] for name in ("corral", "asyncio", "bare"))
            added = tuple(mine - plain for mine, plain in zip(ours, theirs, strict=True))
            name = f"{case}, {moment}"
            figures += [
                Figure(name, "Job.start", "ms", tuple(ours), 1.0),
                Figure(name, "create_subprocess_exec", "ms", tuple(theirs), ratio(theirs, ours)),
                Figure(name, "added", "ms", added),
                Figure(name, "a bare interpreter, start to end", "ms", tuple(bare), ratio(bare, ours)),
            ]
        aims.append(Aim(f"{case}: added until the first line", statistics.median(added), STARTS_WITHIN, "ms"))
    text = "The same shell that says a word and waits; across sudo the rival is sudo started by hand."
    return Section("Start of a command", text, tuple(figures), tuple(aims))


def memory_section(ground: Ground, large: int, rounds: int) -> Section:
    """The reaper's memory over a small tree and over a large one."""
    figures: list[Figure] = []
    aims: list[Aim] = []
    shell = Tree("a shell", COMMAND, lambda rows: any(row.name == "sh" for row in rows))
    for tree, runs in ((shell, rounds), (bush(ground, large, 0), 1)):
        for case, user in _routes(ground):
            say(f"memory of the reaper: {tree.name}, {case}")
            seen = [_weigh(ground, tree, user) for _ in range(runs)]
            name = f"{tree.name}, {case}"
            for kind in ("rss", "pss", "uss", "peak"):
                label = {"peak": "highest RSS so far"}.get(kind, kind.upper())
                figures.append(Figure(name, label, "MB", tuple(one[kind] for one in seen)))
            aims.append(Aim(f"{name}: RSS", statistics.median(one["rss"] for one in seen), WEIGHS_AT_MOST, "MB"))
    text = "USS is what one more reaper costs; PSS shares out what it has in common with other interpreters."
    return Section("Memory of the reaper", text, tuple(figures), tuple(aims))


def _weigh(ground: Ground, tree: Tree, user: str | None) -> dict[str, float]:
    driver = ground.driver("corral")
    driver.ask("start", argv=tree.argv, user=user, text="")
    reaper = next(row for row in wait_standing(ground, tree) if row.name == "corral-reaper")
    time.sleep(0.3)  # its first looks at the tree, which it repeats for as long as the tree lives
    weight = readers.memory(reaper.pid)
    driver.ask("end")
    ground.judge.clear()
    return weight


def _routes(ground: Ground) -> list[tuple[str, str | None]]:
    own: list[tuple[str, str | None]] = [("own account", None)]
    if ground.lacking is None:
        ground.stage.allow(COMMAND[0])
        own.append(("across sudo", ground.person))
    return own
