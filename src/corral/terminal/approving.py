"""Asking the person for permission: the next key, or the next line that is an answer, answers the oldest question."""

from __future__ import annotations

from collections.abc import Callable

from corral.backends.backend import Answer
from corral.backends.events import ApprovalClosed, ApprovalRequested, Decision, Question
from corral.service.front import Shown

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

MEANINGS = {"y": "yes", "n": "no", "s": "yes, for the whole session", "c": "no, and stop the turn"}


class Approver:
    """The open approvals of one conversation; `decide` is told what the person decided."""

    def __init__(self, decide: Callable[[str, Answer], None], decline: Callable[[str], None] | None = None) -> None:
        """`decline`: called instead of asking; None: the person is asked."""
        self._decide = decide
        self._decline = decline
        self._open: dict[str, ApprovalRequested] = {}
        self._answers: dict[str, list[str]] = {}

    @property
    def current(self) -> ApprovalRequested | None:
        """What is asked: the oldest that is open."""
        return next(iter(self._open.values()), None)

    @property
    def question(self) -> Question | None:
        """The question that the next line answers, if it is one."""
        approval = self.current
        return next(iter(self._unanswered(approval)), None) if approval else None

    @property
    def waiting(self) -> str:
        """What the next line should be; empty if nothing is asked."""
        if self.current is None:
            return ""
        if question := self.question:
            options = f" ({', '.join(question.options)})" if question.options else ""
            return f"answer, or say /deny: {question.text}{options}"
        return f"answer {', '.join(self.keys)}"

    @property
    def keys(self) -> list[str]:
        """The keys that decide what is asked, each with its meaning; none for questions."""
        return [f"{key}: {meaning}" for key, meaning in MEANINGS.items() if self.offers(WORDS[key])]

    def see(self, event: Shown) -> None:
        """Note what is asked, and what no longer is; with `decline`, decline it at once."""
        if isinstance(event, ApprovalRequested):
            if self._decline is None:
                self._open[event.approval_id] = event
            else:
                self._decline(event.approval_id)
        elif isinstance(event, ApprovalClosed):
            oldest = next(iter(self._open), None)
            self._open.pop(event.approval_id, None)
            if event.approval_id == oldest:
                self._answers.clear()

    def forget(self) -> None:
        """Nothing is asked any more."""
        self._open.clear()
        self._answers.clear()

    def offers(self, decision: Decision) -> bool:
        """Whether what is asked can be decided so."""
        approval = self.current
        return approval is not None and not approval.questions and decision in approval.decisions

    def answer(self, line: str) -> bool:
        """Take a line for an answer, if something is asked and the line answers it."""
        approval = self.current
        if approval is None:
            return False
        left = self._unanswered(approval)
        if not left:
            decision = WORDS.get(line.strip().lower())
            return decision is not None and self._settle(approval, Answer(decision))
        given = _given(left[0], line)
        if not (given or not left[0].required):
            return False
        if not left[0].free and not set(given) <= set(left[0].options):
            return False
        self._answers[left[0].question_id] = given
        if len(left) == 1:
            self._settle(approval, Answer("accept", dict(self._answers)))
        return True

    def decide(self, decision: Decision) -> bool:
        """Decide the oldest; False if nothing is asked."""
        approval = self.current
        return approval is not None and self._settle(approval, Answer(decision, dict(self._answers)))

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
