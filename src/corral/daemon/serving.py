"""`corral serve`: the service, with every front end that the configuration names."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from corral.backends.engine import EngineKind
from corral.config import Config, ConfigError, Person, doubts, load
from corral.daemon import lock
from corral.daemon.front_ends import FRONT_ENDS, Entry, FrontEnds
from corral.daemon.notify import notify
from corral.printable import in_one_line
from corral.process import StartError
from corral.service import logs, state_folder
from corral.service.conversation_ref import ConversationRef
from corral.service.front_end import FrontEndError
from corral.service.identity import Access
from corral.service.service import Service
from corral.service.starting import Starter, configured_kind
from corral.service.stopping import Summary
from corral.service.store.store import Store, StoreError
from corral.tasks import Tasks
from corral.workers import Workers

log = structlog.get_logger(__name__)

FAILED = 1
UNFINISHED = 1

READ_TIMEOUT = 60.0  # seconds for the configuration and the accounts in it

_READING = Workers("corral-config", usual=1, most=4)

Kinds = Callable[[Config, Person, ConversationRef], EngineKind]


async def run(
    path: Path | None, say: Callable[[str], None], kinds: Kinds = configured_kind, *, greeting: str = ""
) -> int:
    """Serve until TERM or INT; the exit status.

    0 when all that ran was ended and proven so; 1 if the service could not begin, or if something was left. HUP reads
    the configuration again. A second TERM or INT kills without waiting. `greeting` is told each person
    whose agent starts.
    """
    # From the first moment: the default action of HUP would end this process.
    unread = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, unread.set)
    try:
        config = load(path)
    except ConfigError as error:
        for fault in error.faults:
            say(fault)
        return FAILED
    logs.set_up()
    warn(config)
    state_dir = config.service.state_dir
    try:
        state_folder.prepare(state_dir)
        held = lock.take(state_dir)
    except (state_folder.StateFolderError, lock.TakenError) as error:
        say(str(error))
        return FAILED
    except OSError as error:
        say(state_folder.why_not(state_dir, error))
        return FAILED
    try:
        store = await Store.open(config.service.state_dir, what="serve")
    except StoreError as error:
        say(str(error))
        os.close(held)
        return FAILED
    try:
        return await Serving(config, store, kinds, unread, greeting=greeting).run()
    except (AccountsError, FrontEndError, StartError) as error:
        say(str(error))
        return FAILED
    finally:
        await store.aclose()
        os.close(held)


class AccountsError(Exception):
    """The accounts of the people cannot be looked up; the message says why."""


def warn(config: Config) -> None:
    """Log what is valid in the configuration and probably a mistake."""
    for doubt in (*doubts.of_the_text(config), *doubts.of_the_host(config)):
        log.warning("a doubt about the configuration", key=doubt.key, doubt=doubt.sentence)


class Serving:
    """One run of the service: its signals, its front ends, its end."""

    def __init__(
        self,
        config: Config,
        store: Store,
        kinds: Kinds,
        unread: asyncio.Event | None = None,
        *,
        entries: Sequence[Entry] | None = None,
        greeting: str = "",
    ) -> None:
        """`unread`: set if the configuration may have changed since it was read. `entries`: instead of FRONT_ENDS."""
        self._service = Service(config, store, Starter(lambda: self._service.config, kinds, greeting=greeting))
        self._front_ends = FrontEnds(self._service, FRONT_ENDS if entries is None else entries, self._tell_status)
        self._ending = asyncio.Event()
        self._signals = 0
        self._unread = unread or asyncio.Event()
        self._serves = False
        """Whether a reload may begin: not before the start is complete, and not in a shutdown."""
        self._reading: asyncio.Task[None] | None = None
        self._tasks = Tasks(_log)

    async def run(self) -> int:
        """From READY to the last verdict."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._service.start()
        self._service.admit(await self._look_up())
        try:
            await self._front_ends.start()
        except FrontEndError:
            await self._service.shutdown()  # those that started before may have begun conversations
            raise
        # What exists now stays: a later garbage collection, in the middle of a hundred turns, need not scan it.
        gc.collect()
        gc.freeze()
        config = self._service.config
        log.info(
            "serving", people=len(config.people), socket=str(config.socket_path), state=str(config.service.state_dir)
        )
        notify("READY=1", self._status)
        self._serves = not self._ending.is_set()
        if self._unread.is_set():
            self._reload()
        await self._ending.wait()
        notify("STOPPING=1")
        summary = await self._service.shutdown()
        self._tasks.cancel()
        await self._front_ends.close()
        return UNFINISHED if _left_something(summary) else 0

    @property
    def _status(self) -> str:
        """The line of `systemctl status`."""
        failed = [f"front end {name} failed: {why}" for name, why in self._front_ends.failed.items()]
        return "STATUS=" + in_one_line("; ".join([f"serving {self._service.config.head_count}", *failed]))

    def _tell_status(self) -> None:
        if self._serves:
            notify(self._status)

    async def _look_up(self) -> Access:
        try:
            return await _READING.run(lambda: Access.look_up(self._service.config), READ_TIMEOUT)
        except OSError as error:  # a TimeoutError too
            raise AccountsError(f"the accounts of the configuration's people cannot be looked up: {error}") from error

    def _end(self, number: int) -> None:
        self._signals += 1
        self._serves = False
        self._ending.set()
        if self._signals == 1:
            log.info("stopping", signal=signal.Signals(number).name)
        if self._signals > 1:
            log.warning("second signal: killing without waiting", signal=signal.Signals(number).name)
            self._tasks.own(self._service.hurry())

    def _reload(self) -> None:
        self._unread.set()
        if not self._serves:
            return
        if self._reading is None or self._reading.done():
            self._reading = self._tasks.own(self._read_until_newest())

    async def _read_until_newest(self) -> None:
        """One reading at a time, and another one after a HUP that came meanwhile: the file read last is the newest."""
        while self._unread.is_set() and self._serves:
            self._unread.clear()
            await self._read_again()

    async def _read_again(self) -> None:
        notify("RELOADING=1")
        try:
            await self._read_and_apply(self._service.config)
        finally:
            if self._serves:
                notify("READY=1", self._status)

    async def _read_and_apply(self, before: Config) -> None:
        try:
            config, access = await _READING.run(lambda: _read(before.path), READ_TIMEOUT)
        except OSError as error:  # a TimeoutError too: a file system or a directory service does not answer
            log.error("the configuration could not be read, and the old one stays", error=str(error))
            return
        except ConfigError as error:
            log.error("the configuration was refused, and the old one stays", faults=error.faults)
            return
        if not self._serves:
            return
        if (config.service.state_dir, config.socket_path) != (before.service.state_dir, before.socket_path):
            log.warning("state_dir and socket are read at the start only: restart the service for them")
        await self._service.reload(config, access)
        self._front_ends.reloaded()
        warn(config)
        log.info("reloaded", people=len(config.people))


def _read(path: Path | None) -> tuple[Config, Access]:
    config = load(path)
    return config, Access.look_up(config)


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("a task of the service failed", exc_info=error)


def _left_something(summary: Summary) -> bool:
    return bool(summary.unfinished or summary.verdicts["survivors"])
