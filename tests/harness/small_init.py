"""A process 1 for the tests: `unshare --pid --fork --mount-proc python small_init.py NAME`, run by root.

It has the name NAME, starts what it is told to, and collects whoever falls to it. Each line of standard input is
{"argv", "uid", "gid", "env", "wait", "session"}; each answer is one line, {"pid"} or {"status", "out", "err"}. Its end
is the end of everything in its namespace.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_left: list[subprocess.Popen[bytes]] = []


def answer(order: dict[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {"user": order["uid"], "group": order["gid"], "extra_groups": []}
    waits = bool(order.get("wait"))
    out = subprocess.PIPE if waits else subprocess.DEVNULL
    program = subprocess.Popen(
        order["argv"],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        env=order["env"],
        start_new_session=bool(order.get("session")),
        **change,
    )
    if not waits:
        _left.append(program)
        return {"pid": program.pid}
    text, error = program.communicate(timeout=60)
    return {"status": program.returncode, "out": text.decode(), "err": error.decode()}


def collect() -> None:
    """Collect the orphans, and nobody whom a Popen of this process waits for."""
    for process in _left:
        process.poll()
    own = {process.pid for process in _left}
    for pid in map(int, Path(f"/proc/1/task/{os.getpid()}/children").read_text().split()):
        if pid not in own:
            os.waitpid(pid, os.WNOHANG)


Path("/proc/self/comm").write_text(sys.argv[1])
for line in sys.stdin:
    said = answer(json.loads(line))
    collect()
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
