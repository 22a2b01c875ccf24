"""The terminal front end on an emulated terminal: what a person sees, and what the seat hears of what they type."""

import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import serving, write_config
from tests.harness.screens import COLUMNS, Emulated, on_screen
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

pytestmark = pytest.mark.slow

TURN = {"event": "turn_started", "turn_id": "1"}
DONE = {"event": "turn_ended", "status": "completed"}
IDLE = {"idle": True}
STILL = 50  # looks at what nobody has read, all of them the same
LONG_AGO = 0.45  # seconds after a question in which a key is not yet an answer (SURPRISE), and a little


def text(delta: str, message: str = "m") -> dict[str, Any]:
    return {"event": "text", "delta": delta, "message_id": message}


def tool(number: str, title: str) -> dict[str, Any]:
    return {"event": "tool_started", "tool_id": number, "kind": "command", "title": title}


def tool_end(number: str, title: str, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"event": "tool_ended", "tool_id": number, "kind": "command", "title": title, "status": status, **more}


def limit(timer: str, seconds_left: float, limit: float, **more: Any) -> dict[str, Any]:
    return {"event": "limit", "timer": timer, "seconds_left": seconds_left, "limit": limit, **more}


def asked(number: str, what: str, *questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"event": "approval_requested", "approval_id": number, "kind": "command", "what": what}
    return {**base, "questions": list(questions), **more}


def answered(number: str, decision: str | None) -> dict[str, Any]:
    return {"event": "approval_closed", "approval_id": number, "decision": decision}


@dataclass
class Chat(Emulated):
    heard_file: Path = Path()

    @property
    def heard(self) -> list[list[Any]]:
        lines = self.heard_file.read_text().splitlines() if self.heard_file.exists() else []
        return [json.loads(line) for line in lines]

    async def hears(self, *call: Any) -> None:
        await until(
            lambda: list(call) in [one[: len(call)] for one in self.heard],
            20,
            f"the seat heard {call}",
            lambda: f"{self.heard}\n{self.screen}",
        )

    @property
    def alone(self) -> bool:
        """Whether it handles Ctrl-C by itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
        return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


class House:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.heard = service.folder / "heard"

    @contextmanager
    def chat(self, *turns: list[dict[str, Any]], env: dict[str, str] | None = None, **scene: Any) -> Iterator[Chat]:
        program = str(self.service.stage.harness / "scripted_seat.py")
        told = json.dumps({"turns": turns, **scene})
        argv = [self.service.python, program, str(self.service.state_dir), str(self.heard), told]
        with on_screen(self.service, argv, env, partial(Chat, heard_file=self.heard)) as shown:
            yield shown


@pytest.fixture
def house(service: Service) -> House:
    return House(service)


class TestWhatIsShown:
    async def test_blocks_are_rendered_once_and_the_rest_is_live(self, house: House) -> None:
        words = (
            "# Plan\n\nFirst *this*,\nthen `that`.\n\n- one\n- two\n\n```python\nx = 1\n```\nand at last Vec<String>"
        )
        steps = [TURN, *[text(letter) for letter in words], {"await": "interrupt"}, DONE, IDLE]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("and at last Vec<String>")
            assert "answering" in chat.spinning
            chat.type("\x03")
            await chat.prompts()
            seen = chat.screen
        for line in ("Plan", "First this,", "then that.", " • one", " • two", "x = 1", "and at last Vec<String>"):
            assert [row.strip() for row in seen.split("\n")].count(line.strip()) == 1, seen
        assert "```" not in seen
        assert (
            seen.index("Plan") < seen.index("First") < seen.index("one") < seen.index("x = 1") < seen.index("at last")
        )

    async def test_a_long_answer_scrolls_and_nothing_of_it_is_lost_or_doubled(self, house: House) -> None:
        lines = [f"line-{number:03}" for number in range(400)]
        code = ["```", *lines, "```", ""]
        steps = [TURN, *[text(f"{line}\n") for line in code], DONE, IDLE]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("line-399")
            await chat.prompts()
            seen = [row.strip() for row in chat.screen.split("\n")]
        assert [row for row in seen if row.startswith("line-")] == lines

    async def test_tools_are_a_line_and_a_failed_one_has_its_last_lines(self, house: House) -> None:
        output = "\n".join(f"out {number}" for number in range(9))
        steps = [
            TURN,
            tool("a", "/bin/bash -lc 'npm test'"),
            limit("tool", 1800, 1800, tool="/bin/bash -lc 'npm test'"),
            {"event": "tool_output", "tool_id": "a", "delta": "compiling\n"},
            {"await": "command"},
            tool_end("a", "/bin/bash -lc 'npm test'", output="all is well", seconds=12.3),
            tool("b", "make"),
            tool_end("b", "make", "failed", exit_code=2, output=output, seconds=2.0),
            DONE,
            IDLE,
        ]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: "npm test · " in chat.spinning, "the spinner tells what runs")
            await chat.until(lambda: "next limit: tool" in chat.spinning, "and the limit that comes next")
            await chat.shows("  compiling")
            chat.enter("/status")
            await chat.shows("✗ make")
            await chat.prompts()
            seen = chat.screen
            assert "compiling" not in seen
        rows = seen.split("\n")
        assert "✓ npm test · 12.3 s" in rows, seen
        assert "✗ make · status 2 · 2.0 s" in rows, seen
        assert "all is well" not in seen
        assert "  out 8" in rows
        assert "  out 3" not in rows

    async def test_thoughts_are_folded_to_their_last_line(self, house: House) -> None:
        think = [{"event": "reasoning", "delta": line, "message_id": "r"} for line in ("first\n", "second\n", "third")]
        with house.chat([TURN, *think, {"await": "command"}, text("so"), DONE, IDLE]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("third")
            assert "thinking" in chat.spinning
            assert "second" not in chat.screen
            chat.enter("/status")
            await chat.shows("· third")
            await chat.prompts()
            assert "first" not in chat.screen

    async def test_what_is_left_of_the_next_limit_is_told_when_it_comes_near(self, house: House) -> None:
        steps = [
            TURN,
            limit("silence", 300, 300),
            {"await": "command"},
            limit("turn", 2.5, 9, near=True),
            text("on "),
            {"await": "command"},
            limit("silence", 300, 300),
            text("and on"),
            {"await": "interrupt"},
            DONE,
            IDLE,
        ]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: "next limit: silence" in chat.spinning, "the limit is told")
            chat.enter("/status")
            await chat.until(lambda: "turn limit in 2 s" in chat.spinning, "what is left is told")
            await chat.until(lambda: "turn limit in 0 s" in chat.spinning, "and goes down")
            chat.enter("/status")
            await chat.until(lambda: "next limit: silence" in chat.spinning, "it was put off")

    async def test_what_an_agent_prints_does_not_command_the_terminal(self, house: House) -> None:
        evil = "\x1b[2J\x1b]0;title\x07\x1b[999;999Hhere\x1b[c\n\n"
        steps = [TURN, text(evil), tool("a", evil), tool_end("a", evil, "failed", output=evil), DONE, IDLE]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("here", 3)
            await chat.prompts()
            assert "> go" in chat.screen
            assert b"title" not in chat.raw
            assert b"\x1b[2J" not in chat.raw
            assert chat.heard == [["send", "go"]], "the terminal answered nothing for the person"

    async def test_no_color(self, house: House) -> None:
        with house.chat([TURN, text("**bold** `code`\n\n"), DONE, IDLE], env={"NO_COLOR": "1"}) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("bold code")
            await chat.prompts()
            colours = [f"\x1b[{number}m".encode() for number in (*range(31, 37), *range(91, 97))]
            assert not [colour for colour in colours if colour in chat.raw]
            assert b"38;5" not in chat.raw


class TestAnswers:
    async def test_a_key_answers_what_is_offered_and_only_that(self, house: House) -> None:
        decisions = ["accept", "decline"]
        steps = [TURN, asked("1", "rm -r build", decisions=decisions), {"await": "answer"}, answered("1", "accept")]
        with house.chat([*steps, DONE, IDLE]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("permission requested: rm -r build")
            await chat.shows("waiting for you")
            await until_keys_count()
            chat.type("s")
            await chat.until(lambda: chat.line.endswith("> s"), "a key that is not offered is typed")
            chat.type("\x7f")
            await chat.until(lambda: chat.line.endswith(">"), "it is erased")
            chat.type("y")
            await chat.hears("answer", ["1", "accept", {}])
            await chat.shows("✓ allowed")
            await chat.prompts()

    async def test_a_key_that_was_meant_for_a_message_answers_nothing(self, house: House) -> None:
        steps = [TURN, asked("1", "rm"), {"await": "interrupt"}, answered("1", "decline"), DONE, IDLE]
        with house.chat(steps) as chat:
            await chat.prompts()
            chat.enter("go")
            chat.type("w")
            await chat.shows("permission requested")
            await until_keys_count()
            chat.type("y\r")
            await chat.hears("send", "wy")
            assert [call for call, _ in chat.heard] == ["send", "send"]
            await chat.shows("a question is open")

    async def test_several_in_a_row_one_at_a_time(self, house: House) -> None:
        both = [asked("1", "first"), asked("2", "second")]
        steps = [
            TURN,
            *both,
            {"await": "answer"},
            answered("1", "decline"),
            {"await": "answer"},
            answered("2", "accept"),
        ]
        with house.chat([*steps, DONE, IDLE]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("permission requested: first")
            assert "second" not in chat.screen
            await until_keys_count()
            chat.type("n")
            await chat.shows("permission requested: second")
            await until_keys_count()
            chat.type("y")
            await chat.prompts()
            assert [what for call, what in chat.heard if call == "answer"] == [
                ["1", "decline", {}],
                ["2", "accept", {}],
            ]

    async def test_questions_with_options_and_a_secret(self, house: House) -> None:
        options = {"question_id": "where", "text": "Where?", "options": ["staging", "production"], "free": False}
        secret = {"question_id": "token", "text": "Token?", "secret": True}
        steps = [TURN, asked("1", "a few things", options, secret), {"await": "answer"}, answered("1", "accept")]
        with house.chat([*steps, DONE, IDLE]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("Where?  1) staging  2) production")
            chat.enter("nowhere")
            await chat.shows("answer, or say /deny")
            chat.type("\x15")  # Ctrl-U
            chat.enter("2")
            await chat.until(lambda: "Token?" in chat.line, "the next question is asked")
            chat.type("/s3cret")
            await chat.until(lambda: "*******" in chat.line, "it is not echoed")
            chat.type("\r")
            await chat.hears("answer", ["1", "accept", {"where": ["production"], "token": ["/s3cret"]}])
            await chat.prompts()
            chat.type("\x1b[A")
            await chat.until(lambda: "go" in chat.line, "the history has the message, and no answer")
            assert b"s3cret" not in chat.raw
        kept = house.service.state_dir / "history" / "anna"
        assert "+go" in kept.read_text()
        assert "cret" not in kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600


async def until_keys_count() -> None:
    """Let the time pass in which a key could have been meant for something else."""
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > LONG_AGO, 5, "the surprise is over")


class TestTyping:
    async def test_a_paste_longer_than_the_window_leaves_no_copy_in_the_scrollback(self, house: House) -> None:
        lines = [f"pasted {number}." for number in range(100)]
        with house.chat([IDLE], [IDLE]) as chat:
            await chat.prompts()
            chat.type("\x1b[200~" + "\r".join(lines) + "\x1b[201~")
            await chat.shows(lines[-1])
            chat.type("\r")
            await chat.hears("send", "\n".join(lines))
            chat.enter("next")
            await chat.hears("send", "next")
            await chat.shows("> next")
            assert {line: chat.screen.count(line) for line in lines} == dict.fromkeys(lines, 1)

    async def test_lines_history_and_paste(self, house: House) -> None:
        with house.chat([IDLE], [IDLE], [IDLE]) as chat:
            await chat.prompts()
            chat.type("one\ntwo\x1b\rthree\r")
            await chat.hears("send", "one\ntwo\nthree")
            chat.type("\x1b[200~pasted\rtwice\x1b[201~")
            await chat.shows("twice")
            assert len(chat.heard) == 1
            chat.type("\r")
            await chat.hears("send", "pasted\ntwice")
            chat.type("\x12one")  # Ctrl-R
            await chat.until(
                lambda: "  three" in chat.rows[-1] or any("three" in row for row in chat.rows), "it is found"
            )
        with house.chat([IDLE]) as chat:
            await chat.prompts()
            chat.type("\x1b[A")
            await chat.shows("twice")

    async def test_what_is_typed_before_there_is_a_prompt_is_not_lost(self, house: House) -> None:
        with house.chat([IDLE], [IDLE]) as chat:
            chat.type("early\rand")
            await chat.hears("send", "early")
            chat.type(" more\r")
            await chat.hears("send", "and more")

    async def test_commands_are_completed(self, house: House) -> None:
        with house.chat() as chat:
            await chat.prompts()
            chat.type("/st")
            await chat.shows("where things stand")
            assert "another model" not in chat.screen
            chat.type("\t\t\r")
            await chat.hears("command", "/status")
            await chat.shows("did /status")
            chat.enter("/help")
            await chat.shows("Alt-Enter")
            chat.enter("/quit")
            assert await chat.exited() == 0
        assert chat.heard[-1] == ["leave", None]

    async def test_typing_while_a_turn_runs(self, house: House) -> None:
        with house.chat([TURN, {"await": "send"}, {"await": "send"}, DONE, IDLE]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: chat.spinning, "the turn runs")
            chat.enter("and more")
            await chat.hears("send", "and more")

    async def test_a_narrower_window(self, house: House) -> None:
        words = " ".join(f"word{number}" for number in range(60))
        with house.chat([TURN, text(f"{words}\n\n"), DONE, IDLE], [TURN, text(f"{words}\n\n"), DONE, IDLE]) as chat:
            await chat.prompts()
            chat.resize(20, 40)
            chat.enter("go")
            await chat.shows("word59")
            await chat.prompts()
            chat.resize(20, COLUMNS)
            chat.enter("again")
            await chat.shows("word59", 2)
            await chat.prompts()


class TestLeaving:
    async def test_ctrl_c_stops_then_leaves_then_hurries(self, house: House) -> None:
        with house.chat([TURN, {"await": "leave"}], slow_to_leave=True) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: chat.spinning, "the turn runs")
            chat.type("\x03")
            await chat.hears("interrupt")
            await chat.shows("stopping the turn")
            chat.type("\x03")
            await chat.hears("leave")
            await chat.shows("ending the agent")
            chat.type("\x03")
            await chat.hears("hurry")
            assert await chat.exited() == 0
            assert chat.attributes == chat.before

    async def test_ctrl_c_clears_the_line_before_it_leaves(self, house: House) -> None:
        with house.chat() as chat:
            await chat.prompts()
            chat.type("never mind")
            await chat.shows("never mind")
            chat.type("\x03")
            await chat.until(lambda: chat.line == ">", "the line is empty")
            assert chat.heard == []
            chat.type("\x04")
            assert await chat.exited() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    async def test_a_signal_leaves_and_the_terminal_is_as_before(self, house: House, number: signal.Signals) -> None:
        with house.chat([TURN, {"await": "leave"}]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: chat.spinning, "the turn runs")
            os.kill(chat.process.pid, number)
            assert await chat.exited() == 128 + number
            assert chat.heard[-1] == ["leave", None]
            assert chat.attributes == chat.before
            assert not chat.spinning

    async def test_a_turn_that_began_before_is_stopped_by_ctrl_c(self, house: House) -> None:
        with house.chat(before=[text("in the middle of it")]) as chat:
            await chat.shows("in the middle of it")
            chat.type("\x03")
            await chat.hears("interrupt")
            assert ["leave", None] not in chat.heard

    async def test_ctrl_c_leaves_before_there_is_a_seat(self, house: House) -> None:
        with house.chat(far=True, early="wait") as chat:
            await until(lambda: chat.alone, 20, "it handles signals")
            os.kill(chat.process.pid, signal.SIGINT)
            assert await chat.exited() == 0
        assert chat.heard == []

    async def test_a_fault_restores_the_terminal(self, house: House) -> None:
        with house.chat([TURN, {"unwell": True}, text("still here\n\n"), {"await": "leave"}], fault=True) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.shows("still here")
            chat.type("\x03\x03")
            assert await chat.exited() == 1
            await chat.shows("a fault in the seat's end")
            assert chat.attributes == chat.before

    async def test_the_reason_of_a_closed_seat_is_shown(self, house: House) -> None:
        with house.chat([TURN, {"close": "the service is stopping"}]) as chat:
            await chat.prompts()
            chat.enter("go")
            assert await chat.exited() == 1
            assert "corral: the service is stopping" in chat.screen
            assert chat.attributes == chat.before

    async def test_a_window_that_is_closed(self, house: House) -> None:
        with house.chat([TURN, {"await": "leave"}]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.until(lambda: chat.spinning, "the turn runs")
            chat.vanish()
            await until(lambda: chat.process.poll() is not None, 20, "it ended")
            assert chat.process.returncode in (1, 128 + signal.SIGHUP)
            assert chat.heard[-1] == ["leave", None]

    async def test_a_terminal_that_stalls_does_not_keep_a_signal_from_ending_it(self, house: House) -> None:
        with house.chat([TURN, {"flood": "word " * 100 + "\n\n"}]) as chat:
            await chat.prompts()
            chat.enter("go")
            await chat.hears("send", "go")
            # Nobody reads from now on.
            await until_stalled(chat)
            os.kill(chat.process.pid, signal.SIGTERM)
            await until(lambda: chat.process.poll() is not None, 20, "it ended")
            assert chat.process.returncode == 128 + signal.SIGTERM
            assert chat.heard[-1] == ["leave", None]


async def until_stalled(chat: Chat) -> None:
    """Wait until the terminal takes nothing more: what nobody has read is as much as it was before."""
    seen = [0]

    def full() -> bool:
        seen.append(chat.untaken)
        return len(seen) > STILL and len(set(seen[-STILL:])) == 1 and seen[-1] > 0

    await until(full, 20, "it waits for the terminal")


@pytest.mark.slow
class TestAtAService:
    """The seat behind a socket looks the same."""

    async def test_a_turn_an_answer_a_stop_and_the_service_going(self, service: Service, tmp_path: Path) -> None:
        me = pwd.getpwuid(os.geteuid())
        account = Account(me.pw_name, me.pw_uid, me.pw_gid, Path(me.pw_dir))
        config = write_config(tmp_path)
        argv = [sys.executable, "-m", "corral", "chat", "--config", str(config)]
        home = {"HOME": str(tmp_path)}
        with serving(tmp_path, config) as daemon, on_screen(service, argv, home, account=account) as chat:
            await chat.prompts()
            chat.enter("ask")
            await chat.shows("permission requested")
            await until_keys_count()
            chat.type("y")
            await chat.shows("✓ allowed")
            await chat.prompts()
            chat.enter("work")
            await chat.until(lambda: chat.spinning, "the turn runs")
            await chat.until(lambda: "next limit" in chat.spinning, "it began")
            chat.type("\x03")
            await chat.shows("the turn was interrupted")
            await chat.prompts()
            chat.enter("/status")
            await chat.shows("agent up for")
            daemon.signal(signal.SIGTERM)
            assert await chat.exited() == 1
            assert "the service is stopping" in chat.screen
            assert chat.attributes == chat.before
            assert daemon.wait() == 0


class TestDumb:
    async def test_a_dumb_terminal_has_prompts_and_no_drawing(self, house: House) -> None:
        secret = {"question_id": "token", "text": "Token?", "secret": True}
        steps = [TURN, text("hm\n"), asked("1", "a thing", secret), {"await": "answer"}, answered("1", "accept")]
        with house.chat([*steps, DONE, IDLE], env={"TERM": "dumb"}) as chat:
            await chat.until(lambda: chat.line == ">", "it prompts")
            chat.type("go\n")
            await chat.shows("Token?")
            await chat.until(lambda: not chat.echoes, "what is typed is not shown")
            chat.type("s3cret\n")
            await chat.hears("answer", ["1", "accept", {"token": ["s3cret"]}])
            await chat.until(lambda: chat.line == ">", "it prompts")
            chat.type("\x04")
            assert await chat.exited() == 0
            assert b"\x1b" not in chat.raw
            assert b"s3cret" not in chat.raw
            assert chat.attributes == chat.before
