"""A supervisor that is short of descriptors when the reaper of one of its jobs is killed. Run as a program of its own.

`short_of_descriptors.py STATE_DIR [WITHOUT_RESERVE]` prints one JSON object: what the killed reaper's job was told, and
what became of the other job and of the supervisor's own children.
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from corral.process import Job, inherit, reaper_process
from tests.harness import truth
from tests.harness.waiting import until

COMMAND = ["sh", "-c", "trap '' TERM; (setsid sleep 1000.5 &); echo; sleep 1000.5"]


def exhaust() -> list[int]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken: list[int] = []
    while True:
        try:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return taken


def children() -> list[subprocess.Popen[bytes]]:
    """Children of the supervisor's own: plain, in a session of its own, and with a limit that no job gave it."""
    return [
        subprocess.Popen(["sleep", "1000.25"]),
        subprocess.Popen(["sleep", "1000.25"], start_new_session=True),
        subprocess.Popen(["prlimit", "--rttime=200000:200000", "sleep", "1000.25"], start_new_session=True),
        subprocess.Popen(["sh", "-c", "sleep 0.2; exit 7"], start_new_session=True),
    ]


async def main(state_dir: str, *, reserve: bool) -> None:
    if not reserve:
        inherit._RESERVE = 0
        # It would be one descriptor more that comes free when the reaper dies.
        vars(reaper_process)["_open_pidfd"] = lambda _pid: None
    own = children()
    killed, other = [await Job.start(COMMAND, grace=0.2, kill=1.0, state_dir=state_dir) for _ in range(2)]
    for job in (killed, other):
        assert job.stdout is not None
        await job.stdout.readline()
    tree = [process.pid for process in killed.tree()]
    os.waitid(os.P_PID, own[3].pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - nothing else is to happen meanwhile
    taken = exhaust()
    os.kill(killed.reaper_pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        report, status = await killed.ended(), await killed.wait()
    for descriptor in taken:
        os.close(descriptor)
    record = Path(state_dir, "jobs", f"{killed.id}.job")
    await until(lambda: not [pid for pid in tree if truth.look(pid)], 20, "the tree had ended")
    await until(lambda: not record.exists(), 20, "the record had gone")
    found = {
        "report": report.to_json(),
        "status": status,
        "tree": len(tree),
        "other": [truth.look(other.pid) is not None, truth.look(other.reaper_pid) is not None],
        "own": [one.poll() for one in own],
        "reserve": len(inherit._reserve),
        "last": (await other.end(grace=0)).to_json(),
    }
    for one in own:
        one.kill()
        one.wait()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], reserve=len(sys.argv) < 3))
