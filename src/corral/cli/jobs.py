"""Jobs from the command line: run, ps, sweep."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from corral.cli import completing
from corral.cli.common import AsJson, ConfigFile, StateDir, app, say, state_folder, state_folders

# click's own, or the copy of it that newer typers carry.
_USAGE_ERROR: type[BaseException] = typer.BadParameter.__bases__[0]


class _Run(TyperCommand):
    """Usage errors of `corral run` are 125: every other status is the command's."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """As its parent's."""
        try:
            return super().make_context(*arguments, **options)
        except _USAGE_ERROR as error:
            vars(error)["exit_code"] = 125
            raise


@app.command(
    rich_help_panel="Jobs",
    cls=_Run,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    help="""Run a command; when it exits, or you end it, end all that it started.

Your terminal's streams are the command's. TERM, INT (Ctrl-C) and HUP end the whole tree: TERM first, KILL after the
grace. If corral itself is killed, the tree is ended all the same.

**Exit status**: the command's own; 128+N if signal N ended it; 125 if corral failed or something survived; 126 if the
command cannot be executed; 127 if it is not found.

**Examples**

    corral run -- codex exec "fix the tests"

    corral run --user daniel -- codex app-server

    corral run --grace 2 --report report.json -- sh -c 'setsid sleep 1000 & sleep 1'
""",
)
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG]...", show_default=False)],
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="The account to run as, through `sudo -n`.",
            autocompletion=completing.accounts,
        ),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="From TERM to KILL.")] = 5.0,
    kill: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="For KILL, before survivors are reported.")
    ] = 10.0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", readable=False, help="Write the report as JSON, however corral ends; - for stdout."
        ),
    ] = None,
    state_dir: StateDir = None,
    tracker: Annotated[
        str, typer.Option(metavar="NAME", help="`auto`, `subreaper`, or `portable` to do as a host without any must.")
    ] = "auto",
) -> None:
    """Run a command as a job."""
    from corral.process import foreground

    if not foreground.has_room():
        say("this process may not open the files that it needs: raise the limit (ulimit -n)")
        raise typer.Exit(foreground.FAILED)
    status = asyncio.run(
        foreground.run(
            command,
            user=user,
            grace=grace,
            kill=kill,
            report_file=str(report) if report else None,
            state_dir=str(state_dir) if state_dir else None,
            tracker=tracker,
            say=say,
        )
    )
    raise typer.Exit(status)


@app.command(
    rich_help_panel="Jobs",
    help="""Show the live jobs with their trees: account, pid, age, memory, command.

**Exit status**: 0; 1 if the ledger cannot be read, or if a job in it cannot be looked for from here: one of another
PID namespace (a container), or where processes are hidden (hidepid).

**Examples**

    corral ps

    corral ps --json | jq '.jobs[].tree | length'
""",
)
def ps(state_dir: StateDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the live jobs."""
    from corral.process import LedgerError, live_jobs
    from corral.process.bare.host import host_table

    jobs = []
    try:
        for folder in state_folders(state_dir, config):
            jobs += live_jobs(folder)
    except LedgerError as error:
        say(str(error))
        raise typer.Exit(1) from None
    jobs.sort(key=lambda job: job.entry.started)
    if as_json:
        typer.echo(json.dumps({"jobs": [job.to_json(host_table()) for job in jobs]}, indent=2))
    else:
        from corral.display import processes
        from corral.terminal import render

        render.show(processes.jobs(jobs))
    raise typer.Exit(1 if any(job.reason for job in jobs) else 0)


@app.command(
    rich_help_panel="Jobs",
    help="""End what dead supervisors left.

A job whose supervisor and reaper were both killed leaves its tree behind with its record; this ends it. Jobs whose
supervisor lives are left alone.

With `--adopt` it looks instead for agents of one account that nobody owns any more, whatever started them: codex or
claude (or node or bun that runs one) that hangs directly on init, without a terminal, and is no service. It shows them,
and ends them with `--end`, or when you say yes.

**Exit status**: 0 when nothing is left, 1 otherwise.

**Examples**

    corral sweep

    corral sweep --json --state-dir /var/lib/corral

    corral sweep --user daniel --adopt
""",
)
def sweep(
    state_dir: StateDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Look for agents of NAME's that no job owns, and show them.")
    ] = False,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="The account to look at, with `--adopt`.",
            autocompletion=completing.accounts,
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End what `--adopt` finds, without asking.")] = False,
) -> None:
    """End what dead supervisors left."""
    if adopt and user:
        from corral.cli import adopting

        raise typer.Exit(adopting.run(user, state_folder(state_dir, config), end=end, as_json=as_json))
    if adopt or user or end:
        raise typer.BadParameter("--adopt and --user NAME belong together, and --end to both")
    from corral.process import LedgerError, SweepResult
    from corral.process import sweep as end_what_is_left

    results: list[SweepResult] = []
    failed = False
    for folder in state_folders(state_dir, config):
        try:
            results.append(end_what_is_left(folder))
        except LedgerError as error:
            say(str(error))
            failed = True
    if not results:
        raise typer.Exit(1)
    result = SweepResult.merged(results)
    clean = result.clean and not failed
    if as_json:
        typer.echo(json.dumps({**result.to_json(), "clean": clean}, indent=2))
    elif any(result) or not failed:  # "nothing to sweep" is not known of a ledger that cannot be used
        from corral.display import processes
        from corral.terminal import render

        render.show(processes.swept(result))
    raise typer.Exit(0 if clean else 1)
