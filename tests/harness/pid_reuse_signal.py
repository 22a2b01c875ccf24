"""In a PID namespace of its own: a process ends while its identity is checked, and its pid is given to a stranger.

Prints as JSON whether a signal was said to be sent, and whether the stranger lives.
"""

import json
import os
import signal
import time
from pathlib import Path

from corral.process.bare.signals import kill_if_same

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def sleeper(pid: int = 0) -> int:
    if pid:
        LAST_PID.write_text(str(pid - 1))
    made = os.fork()
    if made == 0:
        time.sleep(1000)
        os._exit(0)
    assert pid in (0, made), f"{made} was handed out in the place of {pid}"
    return made


def main() -> None:
    pid = sleeper()

    def is_same() -> bool:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        sleeper(pid)
        return True  # as it was when the row was read

    sent = kill_if_same(pid, signal.SIGKILL, is_same)
    print(json.dumps({"sent": sent, "stranger_lives": os.waitpid(pid, os.WNOHANG)[0] == 0}))


main()
