"""The service from the command line: serve, end."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from corral.cli import completing
from corral.cli.common import AsJson, ConfigFile, app, say


@app.command(
    rich_help_panel="Service",
    help="""Serve the people of the configuration: each with an agent of their own, under their own account.

Runs in the foreground until TERM or INT, and then ends all that it runs, at once and within `[service] shutdown`; a
second one takes the patience away. HUP reads the configuration again. If it is killed, every agent is ended all the
same, by its reaper; the next start tells whose turn was cut.

**Exit status**: 0 when everything was ended and proven; 1 if it could not begin, or if something was left.

**Examples**

    corral serve

    corral serve --config /etc/corral/corral.toml

    corral serve --offline
""",
)
def serve(
    config: ConfigFile = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="For everybody a scripted model on the loopback: no account and no network."),
    ] = False,
) -> None:
    """Run the service."""
    from corral.process import as_init

    as_init.fork_if_process_1()

    from corral.daemon import serving

    if offline:
        from corral.demo import offline as offline_model

        raise typer.Exit(asyncio.run(offline_model.serve(config, say)))
    raise typer.Exit(asyncio.run(serving.run(config, say)))


@app.command(
    rich_help_panel="Service",
    help="""End all backends of a person at the running service, and print the verdicts. The conversations stay.

The service's account and root may end anybody's, others their own.

**Exit status**: 0 when nothing is left of them, 1 otherwise.

**Examples**

    corral end daniel

    corral end daniel --json | jq '.ended[].report.verdict'
""",
)
def end(
    person: Annotated[str, typer.Argument(metavar="PERSON", autocompletion=completing.people)],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a person's backends."""
    from corral.display import processes
    from corral.remote import operating
    from corral.terminal import render

    ending = operating.end(
        person,
        config,
        as_json=as_json,
        say=say,
        out=typer.echo,
        show=lambda report: render.show(processes.report(report)),
    )
    raise typer.Exit(asyncio.run(ending))
