"""A tree grown from a seed: random_tree.py SEED MARKER. The same seed makes the same choices.

Standard library only, for `python3 -I -S`. Every process draws what it does from its own place in the tree: how many
children, in which session and group, which signals it ignores, whether it stops, forks from a thread, becomes a
subreaper, leaves as a daemon, hands on to a successor, or exits, and when.
"""

import ctypes
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
MOST = 60  # processes a tree, give or take those that start at the same time
LIBC = ctypes.CDLL(None)


def fork(act: Callable[[], object]) -> None:
    if os.fork() == 0:
        try:
            act()
        finally:
            os._exit(0)


def stay(draw: random.Random) -> NoReturn:
    """Stay for good, or exit after up to a fifth of a second."""
    if draw.random() < 0.35:
        time.sleep(draw.random() * 0.2)
        os._exit(draw.randrange(3))
    while True:
        signal.pause()


def disguise(draw: random.Random) -> None:
    if draw.random() < 0.3:
        os.setsid() if os.getpid() != os.getsid(0) else None
    elif draw.random() < 0.3 and os.getpid() != os.getsid(0):
        os.setpgid(0, 0)
    if draw.random() < 0.3:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if draw.random() < 0.2:
        LIBC.prctl(PR_SET_NAME, draw.choice([b"a) S 1", b"sudo", b"(", b"x y"]), 0, 0, 0)
    if draw.random() < 0.1:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def chain(draw: random.Random, links: int) -> None:
    """A successor every few milliseconds, each in a session of its own, the predecessor gone."""
    for _ in range(links):
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.002 + draw.random() * 0.03)


def node(seed: str, depth: int, budget: int) -> None:
    draw = random.Random(seed)
    disguise(draw)
    children = draw.randrange(4) if depth < 5 else 0
    share = (budget - 1) // max(children, 1)
    for index in range(children if share > 0 else 0):
        place = f"{seed}.{index}"

        grow = partial(node, place, depth + 1, share)
        if draw.random() < 0.2:
            thread = threading.Thread(target=fork, args=(grow,))
            thread.start()
            thread.join()
        elif draw.random() < 0.2:
            fork(partial(fork, grow))  # a daemon: its parent exits at once
        else:
            fork(grow)
    if depth and draw.random() < 0.1:
        chain(draw, draw.randrange(1, 8))
    if depth and draw.random() < 0.1:
        os.kill(os.getpid(), signal.SIGSTOP)
    stay(draw)


if __name__ == "__main__":
    node(sys.argv[1], 0, MOST)
