"""`corral chat` with the real codex and the offline model: what a program gets, and what a person sees."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.offline import OfflineModel, Pause, Run, Say, Script, Turn
from corral.printable import harmless
from corral.terminal.lines import Lines
from tests.conftest import Route
from tests.harness.chatting import TIMEOUT, Piped, offline_home, on_path
from tests.harness.screens import Emulated, on_screen
from tests.harness.service import Service
from tests.harness.truth import picture
from tests.harness.waiting import until

EVENTS = {
    "backend_started", "turn_started", "text", "tool_started", "tool_ended", "approval_requested", "usage",
    "turn_ended", "backend_ended", "notice", "limit",
}  # fmt: skip
LONG = Run("setsid sleep 3000 </dev/null >/dev/null 2>&1 & sleep 3001", wait=30)
OPEN = ("--sandbox", "danger-full-access", "--approval", "never")

pytestmark = [pytest.mark.codex, pytest.mark.slow]


@dataclass
class House:
    """The service account's chat, with a codex and a model."""

    service: Service
    codex_command: list[str]
    route: Route

    @asynccontextmanager
    async def model(self, *turns: Turn) -> AsyncIterator[dict[str, str]]:
        """Play a script; the environment in which `corral chat` finds codex and codex finds the model."""
        stage = self.service.stage
        async with OfflineModel(Script(turns)) as model:
            env = on_path(self.service, self.codex_command)
            account = stage.person if self.route.user else stage.service
            home = account.home / ".codex" if self.route.user else self.service.folder / "codex-home"
            offline_home(home, model.base_url, account.uid)
            yield env if self.route.user else {**env, "CODEX_HOME": str(home)}

    def chat(self, env: dict[str, str], *arguments: str) -> Piped:
        user = ["--user", self.route.user] if self.route.user else []
        return Piped.start(self.service, env, *user, *arguments)

    def on_screen(self, env: dict[str, str], *arguments: str) -> AbstractContextManager[Emulated]:
        argv = self.service.corral("chat", "--state-dir", str(self.service.state_dir), *arguments)
        return on_screen(self.service, argv, env)

    def sleeping(self) -> int:
        return len([one for one in self.service.judge.alive() if one.name == "sleep"])

    async def until_at_work(self) -> None:
        """The command of LONG and its server run."""
        await until(lambda: self.sleeping() == 2, TIMEOUT, "both sleep", lambda: picture(self.service.judge.alive()))

    async def until_empty(self, *but: int) -> None:
        def alive() -> str:
            return picture(self.service.judge.alive(but))

        await until(lambda: not self.service.judge.alive(but), 30, "nothing of the test was alive", alive)


@pytest.fixture
def house(service: Service, codex_command: list[str]) -> House:
    return House(service, codex_command, Route("own", None))


@pytest.fixture
def either_house(service: Service, codex_command: list[str], account: Route) -> House:
    """Twice: codex as the service account, and as the person through sudo."""
    return House(service, codex_command, account)


def names(chat: Piped) -> list[str]:
    return [event["event"] for event in chat.events if event["event"] not in ("notice", "usage", "limit")]


class TestOverPipes:
    """`--json`: one object a line, for programs."""

    async def test_messages_are_answered_in_order_and_the_end_of_input_comes_after_the_last_turn(
        self, house: House
    ) -> None:
        async with house.model(Turn(Say("one"), Run("echo out"), Say("done")), Turn(Say("two"))) as env:
            chat = house.chat(env, *OPEN)
            chat.send("first")
            chat.send("")
            chat.send("second")
            chat.close_input()
            assert await chat.exited() == 0
        assert {event["event"] for event in chat.events} <= EVENTS
        kinds = [name for number, name in enumerate(names(chat)) if name != "text" or names(chat)[number - 1] != name]
        tool = ["text", "tool_started", "tool_ended", "text"]
        turns = ["turn_started", *tool, "turn_ended", "turn_started", "text", "turn_ended"]
        assert kinds == ["backend_started", *turns, "backend_ended"], str(chat)
        assert [end["status"] for end in chat.named("turn_ended")] == ["completed", "completed"]
        assert chat.text == "onedonetwo"
        first = chat.named("limit")[0]
        assert (first["timer"], first["seconds_left"], first["near"], first["paused"]) == ("silence", 600, False, False)
        assert chat.named("tool_ended")[0]["output"] == "out\n"
        report = chat.named("backend_ended")[0]["report"]
        assert (report["verdict"], report["proof"]) == ("proven_empty", "no_children")
        assert (house.service.folder / "chat.err").read_text() == ""
        await house.until_empty()

    async def test_a_file_is_read_like_a_pipe(self, house: House) -> None:
        file = house.service.folder / "messages"
        file.write_text("first\nsecond")
        async with house.model(Turn(Say("one")), Turn(Say("two"))) as env:
            argv = house.service.corral("chat", "--state-dir", str(house.service.state_dir))
            with file.open("rb") as messages:
                chat = house.service.start(argv, env=env, stdin=messages)
            out, err = await asyncio.to_thread(chat.communicate, None, TIMEOUT)
        assert chat.returncode == 0, err.decode()
        assert b"one\ntwo\nproven_empty" in out
        assert b"\x1b" not in out

    async def test_stop_ends_a_running_turn_and_the_tree_and_the_next_message_goes_on(
        self, either_house: House
    ) -> None:
        house = either_house
        async with house.model(Turn(Say("I begin."), LONG, Say("never")), Turn(Say("two"))) as env:
            chat = house.chat(env, *OPEN)
            chat.send("go")
            await house.until_at_work()
            chat.send("/stop")
            [ended] = await chat.count("backend_ended", 1)
            assert ended["report"]["verdict"] == "proven_empty"
            assert house.service.judge.alive([chat.process.pid]) == []
            assert names(chat)[-2:] == ["turn_ended", "backend_ended"]
            assert chat.named("turn_ended")[0]["status"] == "interrupted"
            chat.send("and now?")
            await chat.count("turn_ended", 2)
            chat.close_input()
            assert await chat.exited() == 0
        first, second = chat.named("backend_started")
        assert (second["resumed"], second["conversation"]) == (True, first["conversation"])
        assert chat.text == "I begin.two"
        await house.until_empty()

    async def test_a_message_sent_while_a_turn_runs_is_held_after_it(self, house: House) -> None:
        async with house.model(Turn(Say("slow"), Pause(4), Say("ly.")), Turn(Say("next"))) as env:
            chat = house.chat(env)
            chat.send("one")
            await chat.count("text", 1)
            chat.send("two")
            await chat.until(
                lambda: {"event": "notice", "message": "queued, number 1: two"} in chat.events, "it was queued"
            )
            assert chat.named("turn_ended") == []
            chat.close_input()
            assert await chat.exited() == 0
        assert chat.text == "slowly.next"
        assert [end["status"] for end in chat.named("turn_ended")] == ["completed", "completed"]

    async def test_stop_drops_what_waits_and_says_so(self, house: House) -> None:
        async with house.model(Turn(Say("hm"), Pause(60)), Turn(Say("other"))) as env:
            chat = house.chat(env)
            chat.send("one")
            await chat.count("text", 1)
            chat.send("now delete everything")
            chat.send("/stop")
            await chat.count("backend_ended", 1)
            assert {"event": "notice", "message": "not sent: now delete everything"} in chat.events
            chat.close_input()
            assert await chat.exited() == 0
        assert len(chat.named("turn_ended")) == 1

    async def test_a_file_of_many_messages_is_as_many_turns(self, house: House) -> None:
        async with house.model() as env:
            chat = house.chat(env)
            for number in range(15):
                chat.send(f"<{number}>")
            chat.close_input()
            assert await chat.exited() == 0
        assert [end["status"] for end in chat.named("turn_ended")] == ["completed"] * 15
        assert [part.split(">")[0] for part in chat.text.split("<")[1:]] == [str(number) for number in range(15)]

    async def test_what_was_read_ahead_is_dropped_by_stop(self, house: House) -> None:
        async with house.model(Turn(Say("hm"), Pause(60))) as env:
            chat = house.chat(env)
            chat.send("first")
            await chat.count("text", 1)
            for number in range(4):
                chat.send(f"<{number}>")
            chat.send("/stop")
            await chat.count("backend_ended", 1)
            chat.close_input()
            assert await chat.exited() == 0
        dropped = {event["message"] for event in chat.named("notice") if event["message"].startswith("not sent")}
        assert dropped == {f"not sent: <{number}>" for number in range(4)}
        assert len(chat.named("turn_ended")) == 1

    async def test_new_begins_another_conversation_and_restart_keeps_it(self, house: House) -> None:
        async with house.model(Turn(Say("one")), Turn(Say("two"))) as env:
            chat = house.chat(env)
            for number, (message, answer) in enumerate([("a", "one"), ("/new", ""), ("b", "one"), ("/restart", "")]):
                chat.send(message)
                if answer:
                    await chat.count("turn_ended", 1 + number // 2)
                else:
                    await chat.count("backend_ended", (number + 1) // 2)
            await chat.count("backend_started", 3)
            chat.send("c")
            await chat.count("turn_ended", 3)
            chat.send("/quit")
            assert await chat.exited() == 0
        first, second, third = (event["conversation"] for event in chat.named("backend_started"))
        assert first != second == third
        assert chat.text == "oneonetwo"
        assert len(chat.named("backend_ended")) == 3

    async def test_commands_that_change_nothing(self, house: House) -> None:
        async with house.model(Turn(Say("hm"), Pause(60))) as env:
            chat = house.chat(env)
            chat.send("one")
            await chat.count("text", 1)
            for line in ("/nonsense 1", "/help", "/status"):
                before = len(chat.named("notice"))
                chat.send(line)
                await chat.count("notice", before + 1)
            unknown, help_text, status = [event["message"] for event in chat.named("notice")][-3:]
            assert "unknown command /nonsense" in unknown
            assert "/help" in unknown
            assert "/restart" in help_text
            thread = chat.named("backend_started")[0]["conversation"]
            assert chat.named("notice")[-1]["data"]["thread"] == thread
            assert "a turn runs for" in status
            assert "codex" in status
            chat.send("/quit")
            assert await chat.exited() == 0
        assert [end["status"] for end in chat.named("turn_ended")] == ["interrupted"]
        assert names(chat)[-1] == "backend_ended"

    async def test_permission_is_declined_when_nobody_can_be_asked(self, house: House) -> None:
        async with house.model(Turn(Run("echo no", escalate=True), Say("as you wish"))) as env:
            chat = house.chat(env)
            chat.send("go")
            chat.close_input()
            assert await chat.exited() == 0
        assert chat.named("approval_requested")
        assert chat.named("tool_ended")[0]["status"] == "declined"
        assert chat.text == "as you wish"

    async def test_a_codex_that_dies_fails_its_turn_and_the_next_message_starts_another(self, house: House) -> None:
        async with house.model(Turn(Say("hm"), Pause(60)), Turn(Say("two"))) as env:
            chat = house.chat(env)
            chat.send("one")
            await chat.count("text", 1)
            for one in house.service.judge.alive():
                if one.pid == chat.named("backend_started")[0]["pid"]:
                    os.kill(one.pid, signal.SIGKILL)
            await chat.count("backend_ended", 1)
            assert chat.named("turn_ended")[0]["status"] == "failed"
            chat.send("two")
            await chat.count("turn_ended", 2)
            chat.close_input()
            assert await chat.exited() == 1, "a turn failed, and nobody sits at a terminal"
        assert chat.text == "hmtwo"


class TestItsOwnEnd:
    """However the chat ends, the tree does."""

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    async def test_a_signal_to_the_chat_leaves_nothing(self, either_house: House, number: signal.Signals) -> None:
        house = either_house
        async with house.model(Turn(LONG)) as env:
            chat = house.chat(env, *OPEN)
            chat.send("go")
            await house.until_at_work()
            os.kill(chat.process.pid, number)
            if number == signal.SIGINT:  # stops the turn; the chat goes on
                await chat.count("turn_ended", 1)
                assert chat.named("backend_ended") == []
                os.kill(chat.process.pid, number)
            status = await chat.exited()
            await house.until_empty()
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 0}
        assert status == expected[number]
        if number != signal.SIGKILL:
            assert chat.events[-1]["report"]["verdict"] == "proven_empty"

    async def test_a_reader_that_goes_away_ends_it(self, house: House) -> None:
        async with house.model(Turn(LONG)) as env:
            argv = house.service.corral("chat", *OPEN, "--state-dir", str(house.service.state_dir))
            chat = house.service.start(argv, env=env, stderr=subprocess.DEVNULL)
            assert chat.stdin is not None
            assert chat.stdout is not None
            chat.stdin.write(b"go\n")
            chat.stdin.flush()
            await house.until_at_work()
            chat.stdout.close()
            chat.stdin.write(b"/help\n")
            chat.stdin.flush()
            await until(lambda: chat.poll() is not None, TIMEOUT, "it ended")
            assert chat.returncode == 1
            await house.until_empty()

    @pytest.mark.slow
    async def test_a_reader_that_stalls_does_not_keep_a_signal_from_ending_it(self, house: House) -> None:
        async with house.model(Turn(Say("word " * 40_000), LONG)) as env:
            argv = house.service.corral("chat", "--json", *OPEN, "--state-dir", str(house.service.state_dir))
            chat = house.service.start(argv, env=env, stderr=subprocess.DEVNULL)
            assert chat.stdin is not None
            chat.stdin.write(b"go\n")
            chat.stdin.flush()
            await house.until_at_work()
            chat.terminate()
            await until(lambda: chat.poll() is not None, TIMEOUT, "it ended")
            assert chat.returncode == 143
            await house.until_empty()


class TestOnATerminal:
    """What a person sees and types; tests/test_terminal.py has the details."""

    async def test_ctrl_c_stops_the_turn_and_at_the_prompt_it_leaves(self, house: House) -> None:
        async with house.model(Turn(Say("Let me see."), Run("sleep 3001"), Say("never")), Turn(Say("At once."))) as env:
            with house.on_screen(env, *OPEN) as chat:
                await chat.prompts()
                chat.enter("go")
                await chat.until(lambda: "sleep 3001 · " in chat.spinning, "it shows what runs")
                await until(lambda: house.sleeping() == 1, TIMEOUT, "the command runs")
                chat.type("\x03")
                await chat.shows("the turn was interrupted")
                await chat.prompts()
                assert house.sleeping() == 0
                assert "proven_empty" not in chat.screen, "the agent stays"
                chat.enter("quick")
                await chat.shows("At once.")
                await chat.prompts()
                chat.type("\x03")
                assert await chat.exited() == 0
                assert "proven_empty" in chat.screen
        await house.until_empty()

    async def test_permission_is_requested_and_allowed(self, house: House) -> None:
        allowed = house.service.folder / "allowed"
        async with house.model(Turn(Run(f"echo 42 > {allowed}", escalate=True), Say("fine"))) as env:
            with house.on_screen(env) as chat:
                await chat.prompts()
                chat.enter("go")
                await chat.shows("permission requested")
                chat.enter("maybe")
                await chat.shows("a question is open")
                assert not allowed.exists()
                chat.enter("y")
                await chat.shows("✓ allowed")
                await chat.shows("You said: maybe")
                await chat.prompts()
                assert allowed.read_text() == "42\n"
                chat.type("\x04")
                assert await chat.exited() == 0

    async def test_stop_and_status(self, house: House) -> None:
        async with house.model(Turn(Say("I begin."), LONG)) as env:
            with house.on_screen(env, *OPEN) as chat:
                await chat.prompts()
                chat.enter("go")
                await house.until_at_work()
                chat.enter("/ps")
                await chat.shows("sleep 3000")
                chat.enter("/status")
                await chat.shows("a turn runs for")
                chat.enter("/stop")
                await chat.shows("proven_empty")
                await chat.prompts()
                assert house.service.judge.alive([chat.process.pid]) == []
                chat.enter("/stop")
                await chat.shows("nothing is running")
                chat.enter("/quit")
                assert await chat.exited() == 0

    async def test_a_terminal_that_goes_away_ends_it(self, house: House) -> None:
        async with house.model(Turn(LONG)) as env:
            with house.on_screen(env, *OPEN) as chat:
                await chat.prompts()
                chat.enter("go")
                await house.until_at_work()
            await until(lambda: chat.process.poll() is not None, TIMEOUT, "it ended")
            await house.until_empty()

    async def test_offline_needs_no_settings(self, house: House) -> None:
        env = on_path(house.service, house.codex_command)
        with house.on_screen(env, "--offline", "--sandbox", "danger-full-access") as chat:
            await chat.prompts()
            chat.enter("hello")
            await chat.shows("You said: hello")
            chat.enter("run echo $((40 + 2)); exit 3")
            await chat.shows("  42")
            await chat.prompts()
            chat.enter("/quit")
            assert await chat.exited() == 0
        assert [path.name for path in house.service.folder.glob("corral-offline-*")] == []


class TestRefusals:
    """What cannot be done is said in a sentence, with a status."""

    def test_no_codex(self, service: Service) -> None:
        (service.folder / "codex_cli_bin.py").write_text("raise ImportError")
        path = os.pathsep.join([str(service.folder), service.env["PYTHONPATH"]])
        for arguments in ([], ["--json"]):
            argv = service.corral("chat", *arguments)
            done = service.run(argv, env={"PYTHONPATH": path, "PATH": "/nonexistent"})
            assert done.returncode == 1
            assert done.stdout.count("\n") == 1, done.stdout
            assert "held in this terminal" in done.stdout
            assert "npm install -g @openai/codex" in done.stderr
            assert "Traceback" not in done.stderr

    def test_another_engine(self, service: Service) -> None:
        done = service.run(service.corral("chat", "--engine", "parrot"))
        assert done.returncode == 2
        assert "parrot" in done.stderr
        assert "codex" in done.stderr

    def test_an_unknown_account(self, service: Service, codex_command: list[str]) -> None:
        env = on_path(service, codex_command)
        argv = service.corral("chat", "--user", "nobody-of-that-name", "--state-dir", str(service.state_dir))
        done = service.run(argv, env=env)
        assert done.returncode == 1
        assert "there is no account named 'nobody-of-that-name'" in done.stderr
        assert "Traceback" not in done.stderr


class TestHarmless:
    """What an agent prints does not command the terminal."""

    @given(st.text())
    def test_no_control_character_stays(self, text: str) -> None:
        kept = harmless(text)
        assert not {character for character in kept if ord(character) < 32} - {"\n", "\t"}
        assert not {character for character in kept if 127 <= ord(character) < 160}

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b[2Jgone?\r\n", "gone?\n"),
            ("\x9b2Jx", "2Jx"),
            ("tab\tü→", "tab\tü→"),
        ],
    )
    def test_sequences_go_and_the_rest_stays(self, text: str, kept: str) -> None:
        assert harmless(text) == kept


@pytest.mark.parametrize("kind", ["pipe", "file"])
async def test_lines_come_whole_however_they_are_cut(kind: str, service: Service) -> None:
    data = "first\nzweite Zeile ü\r\n\nlast, without an end".encode()
    got: list[str] = []
    ended = asyncio.Event()
    if kind == "file":
        (service.folder / "data").write_bytes(data)
        reading = os.open(service.folder / "data", os.O_RDONLY)
    else:
        reading, writing = os.pipe()
    Lines(reading, got.append, ended.set, lambda: got.append("too long")).start()
    if kind == "pipe":
        for byte in data:
            os.write(writing, bytes([byte]))
            await asyncio.sleep(0)
        os.close(writing)
    await asyncio.wait_for(ended.wait(), 10)
    os.close(reading)
    assert got == ["first", "zweite Zeile ü", "", "last, without an end"]


async def test_a_line_that_is_too_long_is_dropped_and_uses_little_memory(service: Service) -> None:
    data = service.folder / "data"
    data.write_bytes(b"first\n" + b"x" * 30_000_000 + b"\nlast\n" + b"x" * 30_000_000)
    got: list[str] = []
    ended = asyncio.Event()
    with data.open("rb") as file:
        Lines(file.fileno(), got.append, ended.set, lambda: got.append("too long")).start()
        await asyncio.wait_for(ended.wait(), 10)
    assert got == ["first", "too long", "last", "too long"]
