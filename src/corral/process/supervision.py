"""What a supervisor does for one job: it starts a reaper, hears it, and inherits the tree if the reaper is killed."""

from __future__ import annotations

import asyncio
from typing import Any

from corral.process.bare.containment import adopts
from corral.process.bare.errors import StartError, describe
from corral.process.bare.report import SURVIVORS, Report
from corral.process.bare.request import StartRequest
from corral.process.bare.table import UNKNOWN, Identity, remember_account
from corral.process.inherit import Inheritance, add_job, remove_job
from corral.process.lifecycle import Lifecycle, Starting
from corral.process.reaper_process import ReaperProcess, Stdio
from corral.process.streams import Streams

_START_WITHIN = 30.0
_REAPER_MARGIN = 10.0
"""Seconds beyond its ladder after which a reaper that has not reported (a stopped one) is killed and inherited from."""


class Supervision:
    """The one owner of a job's state. `Job` asks it; the lifeline drives it."""

    def __init__(self, request: StartRequest) -> None:
        self.request = request
        self.life = Lifecycle(asyncio.get_running_loop())
        self.streams = Streams()
        self.notices: list[str] = []
        self.reaper: ReaperProcess | None = None
        self.reaper_identity: Identity = (-1, UNKNOWN)
        self.pid = -1
        self.user = ""
        self._suspended: asyncio.Future[None] | None = None
        """What a caller of `request_suspension` waits for."""
        self._uid = UNKNOWN
        """The account that the command runs as; not known before the start."""
        self._last_report: Report | None = None
        """What the reaper has reported last. An empty verdict counts only when the reaper is gone too."""

    # Starting.

    async def start(self, stdio: Stdio) -> None:
        """See `Job.start`."""
        beginning = asyncio.ensure_future(self._begin(stdio))
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # The start goes on to its end, which is bounded, and the job is ended then: half started it could be lost.
            self.request_end(0)
            beginning.add_done_callback(self._abandon)
            await self._let_go(beginning)
            raise

    async def _begin(self, stdio: Stdio) -> None:
        """Start the command. However that fails, those who wait for the job hear of it."""
        try:
            await self._start_reaper(stdio)
            await self._start_command()
        except OSError as error:
            text = f"the job could not be set up ({error.strerror}): end some processes, or raise the limit"
            failure = StartError("fork", text)
            self.life.fail(failure)
            raise failure from error
        except BaseException as error:
            self.life.fail(error)
            raise

    async def _start_reaper(self, stdio: Stdio) -> None:
        add_job(adopts=adopts(self.request.tracker))
        try:
            self.reaper = ReaperProcess(stdio)
            self.reaper_identity = await self.reaper.connect(self._on_message, self._on_reaper_gone)
        except BaseException:
            self._forget()
            raise

    async def _start_command(self) -> None:
        assert self.reaper is not None
        try:
            self._send({"start": self.request.encode()})
            if isinstance(self.life.state, Starting) and self.life.state.grace is not None:
                self.request_end(self.life.state.grace)
            await self.streams.connect(self.reaper.process)
            async with asyncio.timeout(_START_WITHIN):
                await asyncio.shield(self.life.started)
        except StartError as error:
            await self._failed_to_start(error)
        except TimeoutError:
            self.life.started.add_done_callback(lambda started: started.exception())
            self.request_end(0)
            why = "its program, its folder or sudo does not answer"
            await self._failed_to_start(StartError("hung", f"it did not start within {_START_WITHIN:g} s: {why}"))
        except BaseException:
            # The loop is closing: the lifeline goes with it.
            self._abandon()
            raise

    async def _failed_to_start(self, error: StartError) -> None:
        said, report = b"", None
        try:
            async with asyncio.timeout(self.request.ladder.grace + self.request.ladder.kill + _REAPER_MARGIN):
                report = await asyncio.shield(self.life.reported)
                if self.streams.stderr is not None and report.empty:
                    said = await self.streams.stderr.read(2048)
        except TimeoutError:
            pass
        self.streams.close()
        text = said.decode("utf-8", "replace").strip()
        message = f"{error} (it said: {text})" if text else str(error)
        if report is not None and not report.empty:
            left = ", ".join(f"pid {one.pid} (state {one.state})" for one in report.survivors)
            message += f"; what was started for it cannot be ended yet: {left or 'nobody can say what'}"
        failure = StartError(error.kind, message)
        failure.report = report
        raise failure from None

    def _abandon(self, beginning: asyncio.Future[None] | None = None) -> None:
        """End what nobody will ask for. It is driven by the wire, and needs nobody to wait for it."""
        if beginning is not None and (beginning.cancelled() or beginning.exception() is not None):
            return
        self.life.started.add_done_callback(lambda started: started.exception())
        self.request_end(0)
        self.life.reported.add_done_callback(lambda _: self.streams.close())

    async def _let_go(self, beginning: asyncio.Future[None]) -> None:
        """Wait until what was started has ended: when a start is cancelled, its caller may count on nothing being left.

        One that is cancelled again does not wait; the ending goes on all the same.
        """
        await asyncio.wait([beginning])
        if self._has_reaper():
            await asyncio.wait([self.life.reported], timeout=self.request.ladder.kill + _REAPER_MARGIN)

    # Requests to the reaper.

    def request_end(self, grace: float | None) -> None:
        """Have the tree ended: with this grace, or the one that the job was started with."""
        grace = self.request.ladder.grace if grace is None else grace
        if not self._has_reaper():
            self.life.end_later(grace)
            return
        self._send({"end": {"grace": grace}})
        self.life.begin_ending()
        self._limit_the_reaper(grace)

    def request_suspension(self) -> asyncio.Future[None]:
        """Have the tree stopped; the future is done when nobody of it runs, or when it has ended."""
        self._suspended = asyncio.get_running_loop().create_future()
        self._send({"suspend": {}})
        return self._suspended

    def request_resumption(self) -> None:
        """Have continued what was stopped."""
        self._send({"resume": {}})

    def _has_reaper(self) -> bool:
        return self.reaper is not None and self.reaper.wire is not None

    def _limit_the_reaper(self, grace: float) -> None:
        if self.reaper is not None:
            self.reaper.kill_after(grace + self.request.ladder.kill + _REAPER_MARGIN)

    def _send(self, message: dict[str, Any]) -> None:
        if self.reaper is not None:
            self.reaper.send(message)

    def _forget(self) -> None:
        remove_job(adopts=adopts(self.request.tracker))

    def _finish(self, report: Report) -> None:
        self._hear_suspended()
        if self.reaper is not None:
            self.reaper.spare()
        self.life.end(report)
        if report.empty:
            self.streams.close_input()

    # News of the reaper.

    def _on_message(self, message: dict[str, Any]) -> None:
        try:
            self._take_in(message)
        except (KeyError, TypeError, ValueError) as error:
            # What is malformed costs only itself.
            self.notices.append(f"a message of the reaper was not understood ({describe(error)}): {list(message)[:3]}")

    def _take_in(self, message: dict[str, Any]) -> None:
        if "started" in message and not self.life.started.done():
            started = message["started"]
            pid, uid, user = int(started["pid"]), int(started["uid"]), str(started["user"])
            command = (pid, int(started["start_time"]))
            self.pid, self._uid, self.user = pid, uid, user
            remember_account(uid, user)
            self.life.run(command)
        elif "error" in message and not self.life.started.done():
            self.life.refuse(StartError(str(message["error"]["kind"]), str(message["error"]["message"])))
        elif "exited" in message:
            self.life.exit(int(message["exited"]))
        elif "notice" in message:
            self.notices.append(str(message["notice"]))
        elif "suspended" in message:
            self._hear_suspended()
        elif "ending" in message:
            self.life.begin_ending()
            self._limit_the_reaper(self.request.ladder.grace)
        elif "report" in message:
            self._last_report = Report.from_json(message["report"])
            if not self._last_report.empty:
                self._finish(self._last_report)

    def _hear_suspended(self) -> None:
        if self._suspended is not None and not self._suspended.done():
            self._suspended.set_result(None)

    def _on_reaper_gone(self) -> None:
        """It has gone: as it should, after its report, or killed."""
        if self._last_report is not None and self._last_report.empty:
            self._forget()
            # Only now: an empty verdict covers the reaper too.
            self._finish(self._last_report)
        else:
            self._inherit()

    def _inherit(self) -> None:
        """The reaper was killed: the tree, or what it still held of it, has fallen to this process, which ends it."""
        assert self.reaper is not None
        self.life.begin_ending()
        command = self.life.command
        inheritance = Inheritance(
            request=self.request,
            command_pid=self.pid,
            reaper_pid=self.reaper.pid,
            seeds={command} if command is not None else set(),
            uid=self._uid,
        )
        try:
            inheritance.start(asyncio.get_running_loop(), self._inherited, self._forget)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the end must hear of it
            note = f"the reaper was killed, and the supervisor could not end the tree: {describe(error)}"
            report = Report(SURVIVORS, None, 0.0, cause="reaper_died", ended_by="supervisor", notes=(note,))
            self._finish(report._replace(job_id=self.request.job_id))

    def _inherited(self, report: Report, status: int | None) -> None:
        if status is not None:
            self.life.exit(status)
        self._finish(report)
