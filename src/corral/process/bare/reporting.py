"""How the reaper delivers its report: to the file that was asked for, and to the supervisor."""

from __future__ import annotations

from collections.abc import Collection

from corral.process.bare.errors import describe
from corral.process.bare.lifeline import ReaperEnd
from corral.process.bare.report import Report
from corral.process.bare.table import Identity


class Reporter:
    """Delivers reports, and sends the last one again until the supervisor has it whole."""

    def __init__(self, wire: ReaperEnd, report_file: str | None, left: Collection[Identity]) -> None:
        """left: what calls of sudo have left behind, which is why there can be no proof."""
        self._wire = wire
        self._report_file = report_file
        self._left = left
        self._unsent: Report | None = None

    def deliver(self, report: Report) -> None:
        """Write the report, and send it as it was written. Never raises: a failure is a note in what is sent."""
        report = self._explained(report)
        if self._report_file is not None:
            try:
                report = report.written(self._report_file)
            except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor is told all the same
                report = report._replace(notes=(*report.notes, f"the report could not be written: {describe(error)}"))
        self._unsent = report
        self.send_again()

    def send_again(self) -> None:
        """Send the last report, if it was not sent whole: the supervisor may have been stopped, or busy."""
        try:
            if self._unsent is not None and self._wire.send({"report": self._unsent.to_json()}):
                self._unsent = None
        except MemoryError:
            return  # It stays unsent.

    def _explained(self, report: Report) -> Report:
        """With the reason why there is no proof, where that is the reaper's own."""
        if not report.empty or report.proof is not None or not self._left:
            return report
        pids = ", ".join(str(pid) for pid, _ in sorted(self._left))
        note = f"there is no proof, because programs of sudo's, started for calls of the reaper, hang: pid {pids}"
        return report._replace(notes=(*report.notes, note))
