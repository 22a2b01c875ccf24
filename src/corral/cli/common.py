"""What the commands share: the program itself, and the options that several of them have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from corral import __version__

T = TypeVar("T")

app = typer.Typer(
    name="corral",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Run coding agents, and anything else, so that **nothing they started is left running**.",
    epilog="Begin with `corral demo`, or with `corral run -- sleep 60`.",
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        readable=False,  # whether it can be read is said by whoever reads it, with what to do
        help="The ledger's folder. Default: the config's, or the platform's for a user.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        readable=False,
        help="Default: $CORRAL_CONFIG, the user's, or /etc/corral/corral.toml.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


class _Loop(asyncio.SelectorEventLoop):
    """For a host that refuses another thread: what needs one fails with a sentence, and the end needs none."""

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """As its parent's. Raises corral.process.StartError where no thread can be started."""
        try:
            return super().run_in_executor(executor, func, *args)
        except RuntimeError as error:
            if str(error) != "can't start new thread":
                raise
            from corral.process import StartError

            message = "the host refuses another thread: end some processes, or raise the limit"
            raise StartError("fork", message) from None

    async def shutdown_default_executor(self, *timeout: float) -> None:
        """As its parent's."""
        try:
            await super().shutdown_default_executor(*timeout)
        except RuntimeError:  # can't start new thread
            # Nobody waits for them: what they did is over, or nobody asks for it any more.
            if (executor := getattr(self, "_default_executor", None)) is not None:
                executor.shutdown(wait=False)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a loop of its own, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    typer.echo(f"corral: {text}", err=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"corral {__version__}")
        raise typer.Exit


def state_folder(state_dir: Path | None, config: Path | None) -> Path | None:
    """The folder that is meant: the one named, the one of the config that is named or found, or None for the user's.

    Exits with status 1 for a config that was named, or is this account's own, and cannot be used.
    """
    if state_dir is not None:
        return state_dir
    from corral.process.table import account_name
    from corral.service.config import ConfigError, find, load

    chosen = config or find()
    if chosen is None:
        return None
    try:
        return load(chosen).service.state_dir
    except ConfigError as error:
        if config is None and not _is_own(chosen):
            # A person's own jobs are not the service's, whose config they may not read. An operator must be told that
            # "no live jobs" says nothing of the service.
            say(f"{account_name(os.geteuid())}'s own state folder is meant, not the service's: {error.faults[0]}")
            return None
        for fault in error.faults:
            say(fault)
        raise typer.Exit(1) from None


def _is_own(config: Path) -> bool:
    """Whether this account is the one that the config is for."""
    if os.environ.get("CORRAL_CONFIG", ""):
        return True
    try:
        return config.stat().st_uid == os.geteuid()
    except OSError:
        return False
