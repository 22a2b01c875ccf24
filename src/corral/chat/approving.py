"""Asking the person at the terminal for leave: the next lines that are answers answer the oldest question."""

from __future__ import annotations

from collections.abc import Callable

from corral.backends.base import Answer, ApprovalClosed, ApprovalRequested, Decision, Event, Question

WORDS: dict[str, Decision] = {
    "y": "accept",
    "yes": "accept",
    "n": "decline",
    "no": "decline",
    "c": "cancel",
    "cancel": "cancel",
    "s": "accept_for_session",
    "session": "accept_for_session",
}


class Approver:
    """The open approvals of one conversation; `decide` is told what the person decided."""

    def __init__(self, decide: Callable[[str, Answer], bool], *, asks: bool) -> None:
        self._decide = decide
        self._asks = asks
        self._open: dict[str, ApprovalRequested] = {}
        self._answers: dict[str, list[str]] = {}

    @property
    def waiting(self) -> str:
        """What the next line should be; empty if nothing is asked."""
        for approval in self._open.values():
            left = self._unanswered(approval)
            if not left:
                return "answer y, n, s (yes for the whole session) or c (no, and stop the turn)"
            options = f" ({', '.join(left[0].options)})" if left[0].options else ""
            return f"answer, or say /deny: {left[0].text}{options}"
        return ""

    def see(self, event: Event) -> None:
        """Take notice of what is asked, and of what is not any more. Where nobody can be asked the answer is no."""
        if isinstance(event, ApprovalRequested):
            if self._asks:
                self._open[event.approval_id] = event
            else:
                self._decide(event.approval_id, Answer("decline"))
        elif isinstance(event, ApprovalClosed):
            oldest = next(iter(self._open), None)
            self._open.pop(event.approval_id, None)
            if event.approval_id == oldest:
                self._answers.clear()

    def answer(self, line: str) -> bool:
        """Take a line for an answer, if something is asked and the line answers it."""
        for approval in self._open.values():
            left = self._unanswered(approval)
            if not left:
                decision = WORDS.get(line.strip().lower())
                return decision is not None and self._settle(approval, Answer(decision))
            if not line.strip() and left[0].required:
                return False
            self._answers[left[0].question_id] = _given(left[0], line)
            if len(left) == 1:
                self._settle(approval, Answer("accept", dict(self._answers)))
            return True
        return False

    def decide(self, decision: Decision) -> bool:
        """Decide the oldest; False if nothing is asked."""
        for approval in self._open.values():
            return self._settle(approval, Answer(decision, dict(self._answers)))
        return False

    def _unanswered(self, approval: ApprovalRequested) -> list[Question]:
        return [question for question in approval.questions if question.question_id not in self._answers]

    def _settle(self, approval: ApprovalRequested, answer: Answer) -> bool:
        del self._open[approval.approval_id]
        self._answers.clear()
        self._decide(approval.approval_id, answer)
        return True


def _given(question: Question, line: str) -> list[str]:
    parts = [part.strip() for part in line.split(",")] if question.several else [line.strip()]
    return [_option(question, part) for part in parts if part]


def _option(question: Question, text: str) -> str:
    """The option that is meant: by its number, or whatever its case; else the person's own words."""
    if text.isdecimal() and 1 <= int(text) <= len(question.options):
        return question.options[int(text) - 1]
    return next((option for option in question.options if option.lower() == text.lower()), text)
