"""Writes docs/figures.md: `make figures` measures everything that `make bench` does, and keeps the tables as a page."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "figures.md"
HEAD = """\
# Figures

Written by `make figures` on {day}, from one run of the benchmarks: {facts}.

Each table has Corral beside what people would use instead, in the same rounds on the same machine. Machines are shared
and noisy: read the ratios, which are to Corral in the same round, before the times. `make bench ARGS="--only ending"`
measures one table; `--quick` tries them all once.

What is compared: `the origin's ladder` is what the [fault report](how-a-tree-is-ended.md#the-leak) began with (pgrep
twice, a `sudo kill` for each pid, killpg); `psutil's recipe` is the one of its documentation, with a `sudo kill` for
each process or one for all; a `bare reader` is an asyncio reader that parses each line with `json`; the SDKs are the
vendors' own.

"""


def main(arguments: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--markdown", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    *tables, facts = done.stdout.rstrip().splitlines()
    if done.returncode != 0:
        print("figures: a part failed, and the page stays as it was", file=sys.stderr)
        return done.returncode
    text = "\n".join(tables).replace("\n### ", "\n## ").removeprefix("### ")
    text = text if text.startswith("#") else f"## {text}"
    day = datetime.now(tz=UTC).date().isoformat()
    PAGE.write_text(HEAD.format(day=day, facts=facts) + text.rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
