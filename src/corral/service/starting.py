"""How a person's backend is started: engine, account, folder, environment and bounds, all from the configuration."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from corral.backends import registry
from corral.backends.backend_process import BackendProcess
from corral.backends.environment import agent_environment, search_path
from corral.backends.errors import BackendError, EngineNotFoundError
from corral.backends.launch import Launch
from corral.process.bare.ledger import new_id
from corral.process.bare.table import account_name, is_this_account
from corral.service import spool
from corral.service.conversation_ref import ConversationRef
from corral.service.current_backend import Announce, Begun
from corral.service.policy import Policy
from corral.service.pool import Bounds
from corral.service.workspaces import Workspaces
from corral.workers import NoThreadError, Workers

if TYPE_CHECKING:
    from corral.backends.engine import EngineKind
    from corral.backends.entry import EngineEntry
    from corral.config import Config, Person

log = structlog.get_logger(__name__)

PREPARE_TIMEOUT = 30.0  # seconds
MOST_TOLD = 1000  # notices that the operator gets; engines may word each anew

_PREPARING = Workers("corral-prepare", usual=4, most=16)

Kinds = Callable[["Config", "Person", ConversationRef], "EngineKind"]


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts backends as the configuration of the moment says."""

    config: Callable[[], Config]
    kinds: Kinds
    own_env: Mapping[str, str] | None = None
    """What is added to this process's own environment, for the agents of a person's own terminal. None, for a service:
    nothing is handed on that the configuration does not name."""
    greeting: str = ""
    """A notice for each person whose agent starts, such as that no real model answers."""
    _told: set[tuple[str, str]] = field(default_factory=set, compare=False)
    """What the operator was told, of which account."""

    async def __call__(self, ref: ConversationRef, thread: str | None, announce: Announce) -> Begun:
        """Announce and start a backend, resuming `thread`. Raises BackendError, ResumeError, JobError."""
        config = self.config()
        person = config.person(ref.person)
        if person is None:
            raise BackendError(f"{ref.person} is not in the configuration any more")
        # Secrets are read from files, which may lie on a slow file system, and accounts from a directory service.
        try:
            launch, kind = await _PREPARING.run(
                lambda: (self.launch(config, person, ref), self.kinds(config, person, ref)), PREPARE_TIMEOUT
            )
        except TimeoutError as error:
            raise BackendError(
                f"the agent's folders, secrets and account could not be read in {PREPARE_TIMEOUT:g} s:"
                " a file system or a directory service does not answer"
            ) from error
        except NoThreadError as error:
            raise BackendError(str(error)) from error
        except OSError as error:
            raise BackendError(f"{config.service.state_dir} cannot be written: {error.strerror or error}") from error
        if self.own_env is None:
            tell = partial(self._tell_operator, launch.account or "")
            for notice in launch.notices:
                tell(notice)
            launch = replace(launch, notices=(), tell_operator=tell)
        if self.greeting:
            launch = replace(launch, notices=(self.greeting, *launch.notices))
        backend = BackendProcess(kind, launch, config.timeouts.limits())
        await announce(launch.job_id, launch.account or account_name(os.getuid()))
        await backend.start(thread)
        return Begun(backend)

    def _tell_operator(self, account: str, notice: str) -> None:
        """Log it once: it comes with every start, and its person can do nothing about it."""
        if (account, notice) in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add((account, notice))
        log.warning("a notice for the operator", account=account or None, notice=notice)

    def launch(self, config: Config, person: Person, ref: ConversationRef) -> Launch:
        """The account, the folder, the environment and the ladder."""
        job_id = new_id()
        state_dir = config.service.state_dir
        report_file = spool.place(state_dir, job_id)
        report_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        base, notices = self._environment(person, state_dir)
        return Launch(
            person.os_user,
            ref.workspace or workspaces(person).home,
            env=self.own_env or {},
            base_env=base,
            notices=notices,
            limits=_limits(person),
            goodbye=config.ladder.goodbye,
            grace=config.ladder.grace,
            kill=config.ladder.kill,
            state_dir=state_dir,
            report_file=report_file,
            label=f"{ref.engine} of {person.name}",
            job_id=job_id,
        )

    def _environment(self, person: Person, state_dir: Path) -> tuple[Mapping[str, str] | None, Sequence[str]]:
        if self.own_env is not None:
            return None, ()
        built = agent_environment(
            person.os_user, state_dir=state_dir, keep=person.keep_env, env=person.env, secrets=person.secrets
        )
        return built.variables, built.notices


def configured_kind(config: Config, person: Person, ref: ConversationRef) -> EngineKind:
    """The engine as the configuration has it. Raises BackendError where its program is not installed."""
    entry, settings = registry.entry(ref.engine), config.engines.settings(ref.engine)
    command: Sequence[str] = settings.command
    # For another account sudo looks a bare name up.
    if command == type(settings)().command and is_this_account(person.os_user):
        command = _installed(entry)
    return entry.kind(settings, command, _first_model(config, person, ref))


def installed_kind(config: Config, person: Person, ref: ConversationRef) -> EngineKind:
    """The same, with the program that is installed for this account, whoever runs it: for a person's own terminal."""
    entry, settings = registry.entry(ref.engine), config.engines.settings(ref.engine)
    command = settings.command if settings.command != type(settings)().command else _installed(entry)
    return entry.kind(settings, command, _first_model(config, person, ref))


def _installed(entry: EngineEntry) -> Sequence[str]:
    try:
        return entry.find(search_path(os.environ.get("PATH", "")))
    except EngineNotFoundError as error:
        raise BackendError(f"{error}; or name it in [engines.{entry.name}] command") from None


def policy(config: Config, person: Person, ref: ConversationRef) -> Policy:
    """The person's terms for a conversation with this engine."""
    settings = config.engines.settings(ref.engine)
    own = person.effort if ref.engine == config.engine_of(person) else None
    ladder = config.ladder
    return Policy(
        limits=config.timeouts.limits(),
        bounds=Bounds(config.pool.backends, person.backends or config.pool.per_person),
        queue=config.pool.queue,
        idle=config.recycle.idle,
        age=config.recycle.age,
        background=config.recycle.background,
        ladder=ladder.goodbye + ladder.grace + ladder.kill,
        effort=own or settings.effort,
    )


def workspaces(person: Person) -> Workspaces:
    """The person's folders, absolute."""
    home = _home(person)
    return Workspaces(
        _absolute(person.workspace, home),
        {name: _absolute(path, home) for name, path in person.workspaces.items()},
        home,
    )


def _limits(person: Person) -> dict[str, int]:
    wanted = {"data": person.memory, "processes": person.processes}
    return {name: most for name, most in wanted.items() if most is not None}


def _first_model(config: Config, person: Person, ref: ConversationRef) -> str | None:
    if ref.model is not None:
        return ref.model  # chosen for the conversation: it is what the start says, too
    own = person.model if ref.engine == config.engine_of(person) else None
    settings = config.engines.settings(ref.engine)
    return own or settings.model


def _home(person: Person) -> str:
    try:
        return pwd.getpwnam(person.os_user).pw_dir if person.os_user else os.path.expanduser("~")  # noqa: PTH111
    except KeyError:
        return "/"  # the job refuses an account that does not exist, with better words


def _absolute(path: str, home: str) -> str:
    return home if path == "~" else str(Path(home) / path.removeprefix("~/"))
