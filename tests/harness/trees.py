"""The registry of hostile trees: how to start each, and what must be there once it says that it is ready."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.truth import Seen
from tests.harness.waiting import wait_until

PROGRAM = Path(__file__).with_name("hostile.py")


@dataclass(frozen=True)
class Tree:
    """One hostile shape. `processes` is how many are alive at least, sudo and its monitor not counted."""

    name: str
    shape: str
    processes: int
    arguments: tuple[str, ...] = ()
    across: bool = False  # the tree itself goes across accounts: below it is a sudo to the person
    ends_itself: bool = False  # the command exits and leaves something behind

    @property
    def quick(self) -> bool:
        """Whether `make quick` runs it too."""
        return self.name in QUICK

    def argv(self, python: str, program: Path, status: Path, person: str | None = None) -> list[str]:
        """Return the command. A tree that goes across accounts itself needs the person's name."""
        start = [python, "-I", "-S", str(program)]
        argv = [*start, self.shape, str(status), *self.arguments]
        if self.across:
            argv += ["sudo", "-n", "-u", str(person), "--", *start, "bare", str(status)]
        return argv


QUICK = {
    "ignores_term",
    "closed_daemon",
    "respawner",
    "successor_every_30_ms",
}
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 12)

TREES: dict[str, Tree] = {
    tree.name: tree
    for tree in (
        *(Tree(f"depth_{levels}", "depth", levels, (str(levels),)) for levels in DEPTHS),
        Tree("breadth_1500", "breadth", 1501, ("1500",)),
        Tree("ignores_term", "ignores_term", 2),
        Tree("closed_daemon", "daemon", 2),
        Tree("left_behind", "left_behind", 1, ends_itself=True),
        Tree("forks_from_a_thread", "thread_forks", 2),
        Tree("dead_main_thread", "dead_main", 2),
        Tree("subreaper_inside", "inner_subreaper", 3),
        Tree("stopped", "stopped", 3),
        Tree("respawner", "respawner", 3),
        Tree("odd_name", "odd_name", 3),
        Tree("suspended_in_vfork", "vfork", 3),
        Tree("flood_unread", "flood", 2),
        Tree("unreaped_zombies", "zombies", 1),
        Tree("successor_every_30_ms", "successors", 2, ("30",)),
        Tree("churn_60", "churn", 1, ("60",)),
        Tree("environment_wiped", "env_wiped", 2),
        Tree("stdin_held_open", "holds_stdin", 2),
        Tree("two_accounts", "mixed", 2, across=True),
        Tree("sudo_on_a_terminal", "terminal", 2, across=True),
    )
}


@dataclass(frozen=True)
class Planted:
    """A tree of one test: its command, and where its processes say who they are."""

    tree: Tree
    argv: Sequence[str]
    status: Path

    def said(self) -> list[str]:
        return self.status.read_text().splitlines()

    def pids(self, name: str) -> list[int]:
        """Return the pids of the processes that said that they are `name`."""
        return [int(line.split()[1]) for line in self.said() if line.split()[0] == name]

    def wait_ready(self, alive: Callable[[], list[Seen]], timeout: float = 30.0) -> None:
        """Wait until the whole shape stands."""

        def picture() -> str:
            return "\n".join([f"the tree said {self.said()[-5:]}; alive:", *(f"  {seen}" for seen in alive())])

        wait_until(lambda: "ready" in self.said(), timeout, f"the tree {self.tree.name} is ready", picture)


def plant(tree: Tree, folder: Path, python: str, program: Path, person: str | None = None) -> Planted:
    """Make the status file, which every account may write to, and the command."""
    status = folder / "status"
    status.touch()
    status.chmod(0o666)
    return Planted(tree, tree.argv(python, program, status, person), status)
