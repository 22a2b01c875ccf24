"""What it costs to find out who is in a tree."""

from collections.abc import Sequence

from bench.figures import Figure, Section, ratio
from bench.ground import Ground, say
from bench.trees import scripted_codex, wait_standing


def reading_section(ground: Ground, sizes: Sequence[int], rounds: int) -> Section:
    """A tree of Codex's shape, read in four ways, on hosts of several sizes."""
    figures: list[Figure] = []
    tree = scripted_codex(ground, 0)
    for size in sizes:
        ground.idle(size)
        say(f"reading the tree, {size:,} idle processes")
        driver = ground.driver("plain")
        root = driver.ask("start", argv=tree.argv, user=None if ground.lacking else ground.person, text="")["pid"]
        wait_standing(ground, tree)
        seen = driver.ask("read", root=root, rounds=rounds)
        ground.judge.clear()
        driver.ask("close")
        ours = next(iter(seen["ms"].values()))
        for name, times in seen["ms"].items():
            note = f"finds {seen['found'][name]}"
            figures.append(
                Figure(
                    f"{size:,} idle, {seen['host']:,} in all", name, "ms", tuple(times), ratio(times, ours), (), note
                )
            )
    ground.idle(0)
    text = "Each reader is asked in turn, by the service account, for everything below the same process."
    return Section("Reading the tree", text, tuple(figures))
