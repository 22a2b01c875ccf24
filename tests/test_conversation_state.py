"""The state of a conversation: its transitions in any order that its owner may make them in."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corral.backends.backend import Input
from corral.service.conversation_state import Phase, State, Waiting


class Someone:
    def show(self, event: Any) -> None:
        pass

    def idle(self) -> None:
        pass

    def closed(self, reason: str) -> None:
        pass


class Life(RuleBasedStateMachine):
    """A conversation's life, and a count of what was sent beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.sent = self.taken = self.dropped = self.endings = 0

    @precondition(lambda self: not self.state.closed)
    @rule()
    def send(self) -> None:
        self.sent += 1
        self.state = self.state.message_sent(Waiting(Input(str(self.sent)), Someone()))

    @precondition(lambda self: self.state.waiting and self.state.turn is None and not self.state.endings)
    @rule()
    def take(self) -> None:
        first = self.state.waiting[0]
        self.state = self.state.turn_taken(float(self.sent))
        self.taken += 1
        assert self.state.turn is not None
        assert self.state.turn.taken is first
        assert self.state.turn.goes_on

    @precondition(lambda self: self.state.turn is not None)
    @rule()
    def hand_over(self) -> None:
        self.state = self.state.turn_handed_over()

    @precondition(lambda self: self.state.turn is not None)
    @rule()
    def interrupt(self) -> None:
        self.state = self.state.turn_interrupted()
        assert self.state.turn is not None
        assert not self.state.turn.goes_on

    @precondition(lambda self: self.state.turn is not None)
    @rule()
    def show_end(self) -> None:
        self.state = self.state.turn_shown()

    @rule()
    def drop(self) -> None:
        self.dropped += len(self.state.waiting)
        self.state = self.state.messages_dropped()

    @rule()
    def ask_for_a_start(self) -> None:
        self.state = self.state.start_requested()

    @rule()
    def start(self) -> None:
        self.state = self.state.start_over()

    @rule()
    def begin_ending(self) -> None:
        before = self.state
        self.endings += 1
        self.state = self.state.ending_begun(f"ending {self.endings}")
        assert self.state.changes == before.changes + 1
        assert self.state.phase is Phase.ENDING
        if before.turn is not None and before.turn.stopped_for:
            assert self.state.turn is not None
            assert self.state.turn.stopped_for == before.turn.stopped_for, "the first reason stays"

    @precondition(lambda self: self.state.endings)
    @rule()
    def finish_ending(self) -> None:
        self.state = self.state.ending_over()

    @rule()
    def close(self) -> None:
        self.state = self.state.closing()

    @invariant()
    def no_message_is_lost_or_taken_twice(self) -> None:
        assert self.sent == self.taken + self.dropped + len(self.state.waiting)

    @invariant()
    def the_phase_says_what_goes_on(self) -> None:
        phase = self.state.phase
        assert (phase is Phase.ENDING) == bool(self.state.endings)
        assert phase is not Phase.IDLE or (self.state.turn is None and not self.state.starting)
        assert phase is not Phase.TURN or self.state.turn is not None
        assert self.state.busy or phase in (Phase.IDLE, Phase.CLOSED)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("wrong", ["turn_shown", "turn_handed_over", "turn_interrupted", "ending_over"])
def test_what_has_not_begun_does_not_end(wrong: str) -> None:
    with pytest.raises(AssertionError):
        getattr(State(), wrong)()


def test_a_turn_is_not_taken_beside_another_or_during_an_ending() -> None:
    waiting = State().message_sent(Waiting(Input("a"), Someone())).message_sent(Waiting(Input("b"), Someone()))
    with pytest.raises(AssertionError):
        waiting.turn_taken(1.0).turn_taken(2.0)
    with pytest.raises(AssertionError):
        waiting.ending_begun("a stop").turn_taken(1.0)
