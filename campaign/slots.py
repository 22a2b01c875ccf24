"""`python -m campaign.slots SLOT`: plays the scenario of each seed that it reads, each in a new world; answers in JSON.

A world is a PID namespace, so that its end is the end of everything in it, whatever the scenario left there.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

from campaign.ground import Slot
from campaign.play import play as play_scenario
from campaign.scenario import draw
from campaign.world import World
from tests.harness import namespace

PR_SET_PDEATHSIG = 1
WORLD_WITHIN = 240.0


def play(slot: Slot, order: dict[str, Any]) -> dict[str, Any]:
    """Play one scenario in a world of its own, and return what came of it."""
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _outside(slot, order, writing)
    os.close(writing)
    said = _read(reading, began + WORLD_WITHIN)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)
    result: dict[str, Any] = {"findings": [["hung", f"the world did not end in {WORLD_WITHIN:g} s"]], "story": []}
    if said.endswith(b"\n"):
        result = json.loads(said)
    return {"seed": order["seed"], "seconds": time.monotonic() - began, **result}


def _read(descriptor: int, deadline: float) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            break
        if not (piece := os.read(descriptor, 65536)):
            break
        said += piece
    return said


def _outside(slot: Slot, order: dict[str, Any], writing: int) -> NoReturn:
    """Make the namespaces, and wait for process 1; it is killed when this process is."""
    _die_with_parent()
    os.setsid()
    namespace.enter_private()
    namespace.unshare_pids()
    pid = os.fork()
    if pid == 0:
        _die_with_parent()
        _be_world(slot, order, writing)
    os.close(writing)
    os.waitpid(pid, 0)
    os._exit(0)


def _be_world(slot: Slot, order: dict[str, Any], writing: int) -> NoReturn:
    world = World(draw(order["seed"], only=order.get("only")), slot)
    try:
        play_scenario(world)
    except BaseException:  # noqa: BLE001 - whatever the campaign's own fault is, it is told
        world.find("trouble", traceback.format_exc())
    result = {"findings": world.findings, "story": world.story if world.findings or order.get("tell") else []}
    data = json.dumps(result).encode() + b"\n"
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Follow the lines of standard input."""
    slot = Slot.from_json(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(play(slot, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
