"""The supervisor of one tree: a process of the service account that uses Corral, and says what came of it.

The only module of the campaign that imports Corral. Orders and answers are lines of JSON on a socket.
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from corral.process import DEVNULL, Job, Ladder, sweep
from corral.process.bare.errors import JobError

MOST_DESCRIPTORS = 200  # the limit of this process, so that hoarding all of them is quick


class Supervisor:
    """At most two jobs: the tree under test, and another one that nobody asks to end."""

    def __init__(self, wire: socket.socket, children: Mapping[str, int]) -> None:
        self._wire = wire
        self._children = dict(children)
        self._starting: asyncio.Task[None] | None = None
        self._job: Job | None = None
        self._other: Job | None = None
        self._hoard: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, **what: Any) -> None:
        """Say something to the world."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._wire.sendall(json.dumps(what).encode() + b"\n")

    async def serve(self) -> None:
        """Follow orders until told to exit."""
        reader, writer = await asyncio.open_connection(sock=self._wire.dup())
        while line := await reader.readline():
            order = json.loads(line)
            if order["do"] == "exit":
                break
            await self._follow(order)
        writer.close()

    async def _follow(self, order: dict[str, Any]) -> None:
        match order.pop("do"):
            case "start":
                self._starting = self._task(self._start(**order))
            case "cancel":
                self._cancel()
            case "end":
                self._task(self._end(order["grace"]))
            case "limit":
                used = len(list(Path("/proc/self/fd").iterdir())) if order["which"] == resource.RLIMIT_NOFILE else 0
                most = resource.getrlimit(order["which"])[1]
                resource.setrlimit(order["which"], (order["number"] + used, most))
            case "hoard":
                self._take_all()
            case "let go":
                while self._hoard:
                    os.close(self._hoard.pop())
            case "other":
                await self._start_other(**order)
            case "end other":
                assert self._other is not None
                self.say(event="other", report=(await self._other.end(grace=0)).to_json())
            case "children":
                self.say(event="children", statuses={name: self._status(pid) for name, pid in self._children.items()})

    def _task(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Said here, because a task that is cancelled before its first step runs nothing of its own.
        task.add_done_callback(lambda done: self.say(event="cancelled") if done.cancelled() else None)
        return task

    async def _start(self, argv: list[str], **how: Any) -> None:
        try:
            self._job = await Job.start(argv, **how)
            self.say(event="started", pid=self._job.pid, reaper=self._job.reaper_pid)
            report = await self._job.ended()
        except Exception as error:  # noqa: BLE001 - whatever it is, the world must hear of it
            kept = getattr(error, "report", None)
            self.say(
                event="start failed",
                kind=getattr(error, "kind", type(error).__name__),
                text=str(error),
                report=kept.to_json() if kept is not None else None,
            )
        else:
            self.say(event="report", report=report.to_json())

    def _cancel(self) -> None:
        """Cancel the start; where it is over already there is nothing to cancel, and the job is ended."""
        if self._job is not None:
            self._task(self._end(0))
        elif self._starting is not None:
            self._starting.cancel()

    async def _end(self, grace: float) -> None:
        if self._job is not None:
            await self._job.end(grace=grace)

    async def _start_other(self, argv: list[str], state_dir: str) -> None:
        self._other = await Job.start(
            argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, state_dir=state_dir, grace=0, kill=5
        )
        self.say(event="other started", pid=self._other.pid, reaper=self._other.reaper_pid)

    def _take_all(self) -> None:
        try:
            while True:
                self._hoard.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass

    def _status(self, pid: int) -> str:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return "stolen"
        return str(os.waitstatus_to_exitcode(status)) if done else "runs"


def supervise(wire: socket.socket, children: Mapping[str, int], python: str) -> NoReturn:
    """Be the supervisor, in a forked child that is the service account by now."""
    sys.executable = python
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_DESCRIPTORS, MOST_DESCRIPTORS))
    asyncio.run(Supervisor(wire, children).serve())
    wire.close()
    for thread in threading.enumerate():  # as an interpreter does at its end
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    os._exit(0)


def sweep_once(state_dir: str, wire: int) -> NoReturn:
    """Sweep as the service account, in a forked child, and say what came of it."""
    try:
        result = sweep(state_dir, ladder=Ladder(0, 3))
        said = {"clean": result.clean, **result.to_json()}
    except (JobError, OSError, RuntimeError, ValueError) as error:
        said = {"clean": False, "error": f"{type(error).__name__}: {error}"}
    data = json.dumps(said).encode()
    while data:
        data = data[os.write(wire, data) :]
    os._exit(0)
