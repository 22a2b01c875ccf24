"""A program that runs through turns of a store until it is killed, and says what the store has acknowledged."""

import asyncio
import fcntl
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from corral.service.store.store import Store, StoreError

USED = (7, 3, 2)


async def _run(folder: Path, say: Callable[..., None], shared: str) -> None:
    store = await Store.open(folder)
    await store.cut_turns()
    say("open")
    own = (await store.new_conversation("anna", "codex", "")).id
    say("conversation", own)
    while True:
        turn = await store.turn_began(own, "anna")
        say("began", turn)
        await store.add_usage(turn, *USED, 0.25)
        await store.turn_ended(turn, "completed")
        say("ended", turn)
        if await store.claim(shared):
            say("claimed" if _alone(folder) else "both")
            await store.release(shared)


def _alone(folder: Path) -> bool:
    """Whether no other holder is at work; the lock goes with the process, as its hold on the conversation must."""
    descriptor = os.open(folder / "holder", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.sched_yield()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def run(folder: str, pipe: Connection, shared: str) -> None:
    """Run through turns until killed, or until the store fails, which is said."""
    try:
        asyncio.run(_run(Path(folder), lambda *said: pipe.send(said), shared))
    except StoreError as error:
        pipe.send(("failed", str(error)))
