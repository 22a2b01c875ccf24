"""Where a terminal's conversation is held: at a running service, or in this process, which then is its own service."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import structlog

from corral.backends import registry
from corral.backends.events import Notice
from corral.config import Config, Person, find, load
from corral.process import default_state_dir
from corral.remote import wire
from corral.remote.addresses import sockets
from corral.remote.client import AttachedSeat, NoServiceError, NotServedError
from corral.service import logs
from corral.service.conversation_ref import ConversationRef
from corral.service.front import Front, Seat
from corral.service.identity import own_account
from corral.service.service import Service
from corral.service.starting import Kinds, Starter, configured_kind, installed_kind, workspaces
from corral.service.store.store import Store, StoreError
from corral.tasks import Tasks

log = structlog.get_logger(__name__)

Connector: TypeAlias = Callable[[Front], AbstractAsyncContextManager[Seat]]
"""Gives a front end its seat while the context lasts, and ends what the seat runs.

Raises ConnectorError with a sentence if there is none."""

OUTSIDE = "to hold it in this terminal, outside of any service, name your own account: `corral chat --user NAME`"
SETTLE_TIMEOUT = 5.0  # seconds


class ConnectorError(Exception):
    """There is no seat; the message says why."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """A chat that is its own service: one person, and the settings of the command line."""

    config: Config = field(default_factory=Config)
    """Engines and bounds, as the command line has them; its people are not looked at."""
    kinds: Kinds = installed_kind
    engine: str = registry.DEFAULT
    user: str | None = None
    """The account that it runs as; None for this one."""
    person: str = ""
    """The --person of the command line; without a config only the account's own name is valid."""
    told: str = ""
    """Why it is held in this process, if that was not asked for."""
    state_dir: Path | None = None
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    resume: str | None = None

    def connector(self) -> Connector:
        """A connector for it."""
        return lambda front: _own_service(self, front)


@dataclass(frozen=True, slots=True)
class Configured:
    """A chat that is its own service, with the engines and the bounds of a config, for one of its people."""

    config: Config
    person: str | None = None
    """Without it: the only one there is."""
    engine: str | None = None
    model: str | None = None
    resume: str | None = None

    def connector(self) -> Connector:
        """A connector for it."""
        return self._hosted

    @asynccontextmanager
    async def _hosted(self, front: Front) -> AsyncIterator[Seat]:
        people = [person.name for person in self.config.people]
        name = self.person or (people[0] if len(people) == 1 else None)
        if name is None or name not in people:
            unknown = f"{self.config.path} has nobody called {self.person!r}; " if self.person else ""
            raise ConnectorError(f"{unknown}say who you act for, with --person NAME: {', '.join(people)}")
        person = self.config.person(name)
        assert person is not None
        ref = ConversationRef(name, self.engine or self.config.engine_of(person), "", self.model)
        why = f"no service listens at {self.config.socket_path}, and {self.config.path} is here"
        front.show(_held_here(why, ref, workspaces(person).home))
        starter = Starter(lambda: self.config, configured_kind)
        async with _hosted(self.config, starter, ref, self.resume, front) as seat:
            yield seat


def first_of(places: Sequence[Path], hello: wire.Hello, otherwise: Connector) -> Connector:
    """Take a seat at the first socket with a listening service; use `otherwise` only if none of the sockets exists.

    If a service exists but refuses this chat, or is down, the chat is not held elsewhere: an agent
    outside of the service would have neither its bounds nor its operator.
    """

    @asynccontextmanager
    async def connector(front: Front) -> AsyncIterator[Seat]:
        silent = []
        for place in places:
            try:
                async with _attached(place, hello, front) as seat:
                    yield seat
                    return
            except NoServiceError as error:
                silent.append(str(error))
            except NotServedError as error:
                raise ConnectorError(f"{place}: {error}; {OUTSIDE}") from None
        if silent:
            raise ConnectorError(f"{'; '.join(silent)}: start it with `corral serve`; {OUTSIDE}")
        async with otherwise(front) as seat:
            yield seat

    return connector


def chosen(config_file: Path | None, hello: wire.Hello, own: InProcess) -> Connector:
    """The running service; where there is no socket, the config that was named or found; where there is none, `own`.

    Raises ConfigError for a config that cannot be used.
    """
    places = sockets(config_file)
    found = config_file or find()
    if places or found is None:
        return first_of(places, hello, replace(own, told="no service is configured here").connector())
    return Configured(load(found), hello.person, hello.engine, hello.model, hello.resume).connector()


@asynccontextmanager
async def _attached(path: Path, hello: wire.Hello, front: Front) -> AsyncIterator[Seat]:
    seat = await AttachedSeat.open(path, hello)
    here = seat.welcome
    front.show(Notice(f"held by the service at {path}, for {here.person}: {here.engine} in {here.workspace}"))
    tasks = Tasks(_log_fault)
    tasks.own(seat.read(front))
    try:
        yield seat
    finally:
        seat.detach()
        tasks.cancel()
        await tasks.settle(SETTLE_TIMEOUT)


def _log_fault(error: BaseException | None) -> None:
    if error is not None:
        log.error("a chat's connection failed", exc_info=error)


@asynccontextmanager
async def _own_service(own: InProcess, front: Front) -> AsyncIterator[Seat]:
    name = own.user or getpass.getuser()
    if own.person not in ("", name):
        raise ConnectorError(
            f"--person {own.person}: people have names in a config, and this chat is held without one, for {name}"
        )
    state_dir = Path(own.state_dir or default_state_dir()).absolute()
    person = Person.model_construct(name=name, os_user=own.user)
    service = own.config.service.model_copy(update={"state_dir": state_dir})
    config = own.config.model_copy(update={"people": (person,), "service": service})
    starter = Starter(lambda: config, own.kinds, own_env=own.env)
    workspace = str((own.cwd or Path.cwd()).absolute()) if own.user is None or own.cwd is not None else ""
    ref = ConversationRef(name, own.engine, workspace)
    if own.told:
        front.show(_held_here(own.told, ref, workspace or workspaces(person).home))
    async with _hosted(config, starter, ref, own.resume, front) as seat:
        yield seat


def _held_here(why: str, ref: ConversationRef, folder: str) -> Notice:
    return Notice(f"{why}: held in this terminal, for {ref.person}: {ref.engine} in {folder}")


@asynccontextmanager
async def _hosted(
    config: Config, starter: Starter, ref: ConversationRef, resume: str | None, front: Front
) -> AsyncIterator[Seat]:
    """A seat at a service in this process, whose backend starts at once."""
    with logs.in_file(config.service.state_dir), tempfile.TemporaryDirectory(prefix="corral-") as elsewhere:
        store, forgetful = await _open_store(config.service.state_dir, Path(elsewhere))
        service = Service(config, store, starter, patient=False)
        try:
            await service.start()
            if forgetful:
                front.show(Notice(f"this chat will not be remembered: {forgetful}"))
            try:
                seat = await service.seat(own_account(), ref.person, front, resume=resume, ref=ref)
            except LookupError as error:
                raise ConnectorError(str(error.args[0])) from None
            seat.conversation.start_now()
            yield seat
        finally:
            await service.shutdown()
            await store.aclose()


async def _open_store(state_dir: Path, elsewhere: Path) -> tuple[Store, str]:
    """The store; a temporary one, with the reason, if it cannot be opened."""
    try:
        return await Store.open(state_dir, what="chat"), ""
    except StoreError as error:
        forgetful = str(error)
    try:
        return await Store.open(elsewhere, what="chat"), forgetful
    except StoreError as error:
        raise ConnectorError(str(error)) from None
