"""The offline model in the Messages API: by plain HTTP, and with the real Claude Code."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from corral.backends.claude.offline import claude_environment
from corral.offline import Call, Fail, OfflineModel, Pause, Run, Say, Script, Think, Turn
from tests.harness.plain_http import Answer, connect, request, send

REMINDER = {"type": "text", "text": "<system-reminder>\nThe person's language is German.\n</system-reminder>"}


def user(*content: dict[str, Any] | str) -> dict[str, Any]:
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    return {"role": "user", "content": blocks}


def assistant(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def result(output: str, call_id: str = "toolu_x") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": output}]}


async def ask(model: OfflineModel, *entries: dict[str, Any], stream: bool = True, **more: Any) -> Answer:
    body = {"model": "m", "max_tokens": 1000, "stream": stream, "messages": list(entries), **more}
    return await send(model, request("POST", "/v1/messages?beta=true", json.dumps(body).encode()))


def deltas(answer: Answer, kind: str) -> list[dict[str, Any]]:
    found = [event["delta"] for event in answer.events if event["type"] == "content_block_delta"]
    return [delta for delta in found if delta["type"] == kind]


def begun(answer: Answer) -> list[dict[str, Any]]:
    return [event["content_block"] for event in answer.events if event["type"] == "content_block_start"]


class TestByPlainHttp:
    async def test_an_answer_is_one_well_formed_stream(self) -> None:
        async with OfflineModel(Script([Turn(Say("Hello there, you."))])) as model:
            answer = await ask(model, user("hi"))
        assert answer.status == 200
        assert answer.kinds == [
            "message_start",
            "content_block_start",
            *["content_block_delta"] * 3,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert answer.text == "Hello there, you."
        assert answer.events[-2]["delta"]["stop_reason"] == "end_turn"
        assert answer.events[0]["message"]["usage"]["input_tokens"] > 0
        assert answer.events[-2]["usage"]["output_tokens"] > 0

    async def test_without_stream_the_message_comes_whole(self) -> None:
        async with OfflineModel(Script([Turn(Say("Looking."), Run("ls"))])) as model:
            answer = await ask(model, user("hi"), stream=False)
        message = json.loads(answer.body)
        assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
        assert message["content"][1]["input"]["command"] == "ls"
        assert (message["role"], message["stop_reason"]) == ("assistant", "tool_use")

    async def test_deltas_arrive_one_by_one(self) -> None:
        async with OfflineModel(Script([Turn(Say("one two three", pause=0.1))])) as model:
            answer = await ask(model, user("hi"))
        times = [at for at, kind in zip(answer.times, answer.kinds, strict=True) if kind == "content_block_delta"]
        assert len(times) == 3
        assert all(later - earlier > 0.05 for earlier, later in pairwise(times))

    async def test_thinking_is_a_signed_block_before_the_text(self) -> None:
        async with OfflineModel(Script([Turn(Think("Let me see."), Say("Yes."))])) as model:
            answer = await ask(model, user("hi"))
        assert [block["type"] for block in begun(answer)] == ["thinking", "text"]
        assert "".join(delta["thinking"] for delta in deltas(answer, "thinking_delta")) == "Let me see."
        assert len(deltas(answer, "signature_delta")) == 1
        assert answer.text == "Yes."

    async def test_a_tool_call_ends_the_answer_and_its_result_brings_the_next(self) -> None:
        async with OfflineModel(Script([Turn(Say("Looking."), Run("ls", wait=2), Say("Done."))])) as model:
            first = await ask(model, user("go"))
            call = begun(first)[1]
            second = await ask(model, user("go"), assistant(call), user(result("a file", call["id"])))
            assert [seen.results for seen in model.requests] == [(), ("a file",)]
        assert first.text == "Looking."
        assert (call["type"], call["name"]) == ("tool_use", "Bash")
        arguments = json.loads("".join(delta["partial_json"] for delta in deltas(first, "input_json_delta")))
        assert (arguments["command"], arguments["timeout"]) == ("ls", 2000)
        assert first.events[-2]["delta"]["stop_reason"] == "tool_use"
        assert second.text == "Done."

    async def test_any_tool_can_be_called_and_a_command_can_ask_to_leave_the_sandbox(self) -> None:
        turns = [Turn(Call("Read", {"file_path": "/x"}), Run("ls", escalate=True))]
        async with OfflineModel(Script(turns)) as model:
            read = await ask(model, user("a"))
            run = await ask(model, user("a"), user(result("x")))
        assert begun(read)[0]["name"] == "Read"
        assert json.loads(deltas(read, "input_json_delta")[0]["partial_json"]) == {"file_path": "/x"}
        assert json.loads(deltas(run, "input_json_delta")[0]["partial_json"])["dangerouslyDisableSandbox"] is True

    async def test_the_conversation_itself_says_where_the_script_stands(self) -> None:
        script = Script([Turn(Say("first")), Turn(Run("x"), Say("second"))])
        async with OfflineModel(script) as model:
            begin = user(REMINDER, "a")
            assert (await ask(model, begin)).text == "first"
            resumed = [begin, assistant(), {"role": "user", "content": "b"}, assistant(), user(result("out"))]
            assert (await ask(model, *resumed)).text == "second"
            assert (await ask(model, *resumed)).text == "second", "a retry must get the same answer"
            assert (await ask(model, begin)).text == "first", "another conversation begins at the beginning"
            assert model.requests[0].message == "a"

    @pytest.mark.parametrize(
        "entry",
        [
            user(REMINDER),
            user("[Request interrupted by user]"),
            user("Your response above was cut off mid-stream. Resume directly from where it stops."),
            {"role": "system", "content": [{"type": "text", "text": "The user sent a new message while …"}]},
        ],
        ids=["reminder", "interrupted", "cut_off", "system"],
    )
    async def test_what_claude_code_adds_is_no_turn(self, entry: dict[str, Any]) -> None:
        async with OfflineModel(Script([Turn(Run("x"), Say("first")), Turn(Say("second"))])) as model:
            assert (await ask(model, user("a"), user(result("out")), entry)).text == "first"
            assert (await ask(model, user("a"), user(result("out")), entry, user("b"))).text == "second"

    async def test_messages_that_got_no_answer_are_counted_though_they_come_as_one(self) -> None:
        joined = user(REMINDER, "a\n", "[Request interrupted by user]\n", "b\n", "c")
        async with OfflineModel(Script([Turn(Say(text)) for text in ("first", "second", "third")])) as model:
            assert (await ask(model, joined)).text == "third"
            assert model.requests[0].message == "c"
            assert (await ask(model, user("one", "two"))).text == "first", "these are the parts of one message"

    async def test_a_picture_alone_is_a_message(self) -> None:
        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
        async with OfflineModel(Script([Turn(Say("first")), Turn(Say("second"))])) as model:
            assert (await ask(model, user("a"), user(picture))).text == "second"

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"max_tokens": 1}, "Hi"),
            ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "<session>mend the roof</session>"),
            ({}, "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.\n\nSummarise."),
        ],
        ids=["is_there_such_a_model", "title", "compact"],
    )
    async def test_what_is_asked_beside_the_conversation_takes_no_turn(
        self, more: dict[str, Any], message: str
    ) -> None:
        async with OfflineModel(Script([Turn(Fail("not for you"))])) as model:
            answer = await ask(model, user(message), **more)
            assert not model.requests
        assert answer.status == 200
        assert answer.text

    async def test_a_failure_is_a_status_at_first_and_an_event_later(self) -> None:
        script = Script([Turn(Fail("no credit", status=402)), Turn(Say("well"), Fail("busy", status=529))])
        async with OfflineModel(script) as model:
            refused = await ask(model, user("a"))
            broken = await ask(model, user("a"), user("b"))
            unstreamed = await ask(model, user("a"), user("b"), stream=False)
        assert refused.status == 402
        assert json.loads(refused.body) == {"type": "error", "error": {"type": "billing_error", "message": "no credit"}}
        assert broken.kinds[-1] == "error"
        assert broken.events[-1]["error"] == {"type": "overloaded_error", "message": "busy"}
        assert unstreamed.status == 529

    async def test_a_failure_that_passes_is_followed_by_the_steps_behind_it(self) -> None:
        script = Script([Turn(Fail("busy", 529, times=2), Say("half"), Fail("busy", times=1), Say("whole"))])
        async with OfflineModel(script) as model:
            answers = [await ask(model, user("a")) for _ in range(4)]
            other = await ask(model, user("a"), metadata={"user_id": "another conversation"})
        assert [answer.status for answer in answers] == [529, 529, 200, 200]
        assert [answer.text for answer in answers] == ["", "", "half", "whole"]
        assert answers[2].kinds[-1] == "error"
        assert other.status == 529, "another conversation has its own failures"

    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (request("HEAD", "/api/hello"), 200),
            (request("POST", "/v1/messages", b"{"), 400),
            (request("POST", "/v1/messages", b'{"messages": 5}'), 200),
            (request("POST", "/v1/messages", b'{"messages": [5, {"role": "user", "content": 5}]}'), 200),
            (request("GET", "/v1/messages"), 404),
        ],
    )
    async def test_odd_requests_get_a_reply(self, raw: bytes, status: int) -> None:
        async with OfflineModel() as model:
            assert (await send(model, raw)).status == status

    async def test_tokens_are_counted(self) -> None:
        body = json.dumps({"model": "m", "messages": [user("x" * 400)]}).encode()
        async with OfflineModel() as model:
            answer = await send(model, request("POST", "/v1/messages/count_tokens?beta=true", body))
        assert 100 <= json.loads(answer.body)["input_tokens"] <= 150

    async def test_an_agent_that_breaks_off_leaves_no_fault_behind(self) -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with OfflineModel(Script([Turn(Say("wait"), Pause(600))])) as model:
            reader, writer = await connect(model)
            body = json.dumps({"stream": True, "messages": [user("a")]}).encode()
            writer.write(request("POST", "/v1/messages", body))
            async with asyncio.timeout(10):
                await reader.readuntil(b"wait")
                writer.transport.abort()  # a reset, as Claude Code does when it is interrupted
                await model._connections.settle(10)
        assert not faults


def test_the_environment_names_the_server_without_its_version() -> None:
    environment = claude_environment("http://127.0.0.1:1/v1")
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert environment["ANTHROPIC_API_KEY"]


async def test_thinking_in_the_responses_api_is_a_summary() -> None:
    body = json.dumps({"model": "m", "stream": True, "input": "hi"}).encode()
    async with OfflineModel(Script([Turn(Think("Let me see."), Say("Yes."))])) as model:
        answer = await send(model, request("POST", "/v1/responses", body))
    parts = [event["delta"] for event in answer.events if event["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(parts) == "Let me see."
    assert [item["type"] for item in answer.items] == ["reasoning", "message"]
    assert answer.items[0]["summary"] == [{"type": "summary_text", "text": "Let me see."}]


FORMATS = ["--input-format", "stream-json", "--output-format", "stream-json", "--include-partial-messages"]
FLAGS = ["--print", "--verbose", *FORMATS, "--permission-prompt-tool", "stdio"]
TIMEOUT = 60.0  # seconds; the real binary takes one or two for all of this


@dataclass
class Claude:
    """A real claude in its stream-json mode; `heard` is what it has said so far."""

    process: asyncio.subprocess.Process
    heard: list[dict[str, Any]] = field(default_factory=list)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def say(self, text: str) -> None:
        self.send({"type": "user", "message": {"role": "user", "content": text}})

    def control(self, request_id: str, **body: Any) -> None:
        self.send({"type": "control_request", "request_id": request_id, "request": body})

    def allow(self, question: dict[str, Any]) -> None:
        answer = {"behavior": "allow", "updatedInput": question["request"]["input"]}
        response = {"subtype": "success", "request_id": question["request_id"], "response": answer}
        self.send({"type": "control_response", "response": response})

    async def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on to the next such line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            while line := await self.process.stdout.readline():
                self.heard.append(json.loads(line))
                if wanted(self.heard[-1]):
                    return self.heard[-1]
        raise AssertionError(f"claude ended; it said last: {self.heard[-3:]}")

    async def result(self) -> dict[str, Any]:
        return await self.hear(lambda line: line["type"] == "result")

    async def question(self) -> dict[str, Any]:
        return await self.hear(lambda line: line["type"] == "control_request")

    async def reply(self, request_id: str) -> dict[str, Any]:
        found = await self.hear(lambda line: line.get("response", {}).get("request_id") == request_id)
        return dict(found["response"])

    def streamed(self, kind: str) -> str:
        """The pieces of one kind of delta, joined."""
        lines = [line["event"]["delta"] for line in self.heard if line.get("event", {}).get("delta")]
        return "".join(delta[kind.removesuffix("_delta")] for delta in lines if delta.get("type") == kind)


@asynccontextmanager
async def claude(command: list[str], model: OfflineModel, home: Path, *arguments: str) -> AsyncIterator[Claude]:
    """Start claude with a home of its own; end it with the end of input, or else by its pid."""
    process = await asyncio.create_subprocess_exec(
        *command,
        *FLAGS,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **claude_environment(model.base_url)},
        limit=1 << 26,
    )
    assert process.stdin is not None
    try:
        yield Claude(process)
        process.stdin.close()
        async with asyncio.timeout(TIMEOUT):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.claude
@pytest.mark.slow
class TestWithTheRealClaude:
    async def test_it_holds_a_conversation_with_thinking_text_and_a_command(
        self, claude_command: list[str], tmp_path: Path
    ) -> None:
        turns = [Turn(Think("Let me see."), Say("Hello you.")), Turn(Say("I run it."), Run("touch made"), Say("Done."))]
        async with OfflineModel(Script(turns)) as model, claude(claude_command, model, tmp_path) as agent:
            agent.control("start", subtype="initialize")
            assert (await agent.reply("start"))["subtype"] == "success"
            agent.say("hello")
            assert (await agent.result())["result"] == "Hello you."
            assert agent.streamed("thinking_delta") == "Let me see."
            agent.say("run it")
            question = await agent.question()
            assert question["request"]["input"]["command"] == "touch made"
            agent.allow(question)
            ended = await agent.result()
            assert (ended["result"], ended["is_error"], ended["num_turns"]) == ("Done.", False, 2)
            assert agent.streamed("text_delta") == "Hello you.I run it.Done."
            assert [seen.message for seen in model.requests] == ["hello", "run it", "run it"]
        assert (tmp_path / "made").exists()
        assert agent.process.returncode == 0

    async def test_a_resumed_conversation_goes_on_where_the_script_was(
        self, claude_command: list[str], tmp_path: Path
    ) -> None:
        async with OfflineModel(Script([Turn(Say("first")), Turn(Say("second"))])) as model:
            async with claude(claude_command, model, tmp_path) as agent:
                agent.say("a")
                session = (await agent.result())["session_id"]
            async with claude(claude_command, model, tmp_path, "--resume", session) as agent:
                agent.say("b")
                ended = await agent.result()
        assert (ended["result"], ended["session_id"]) == ("second", session)

    async def test_what_it_asks_beside_the_conversation_and_an_interrupt_do_not_move_the_script(
        self, claude_command: list[str], tmp_path: Path
    ) -> None:
        turns = [Turn(Say("first")), Turn(Say("too long"), Pause(600)), Turn(Say("third"))]
        async with OfflineModel(Script(turns)) as model, claude(claude_command, model, tmp_path) as agent:
            agent.say("a")
            await agent.result()
            agent.control("title", subtype="generate_session_title", description="mend the roof", persist=False)
            assert (await agent.reply("title"))["response"]["title"] == "Offline"
            agent.control("model", subtype="set_model", model="claude-of-tomorrow")
            assert (await agent.reply("model"))["subtype"] == "success"
            agent.say("b")
            await agent.hear(lambda line: line.get("event", {}).get("type") == "content_block_delta")
            agent.control("stop", subtype="interrupt")
            assert (await agent.result())["subtype"] == "error_during_execution"
            agent.say("c")
            assert (await agent.result())["result"] == "third"
            assert [seen.message for seen in model.requests] == ["a", "b", "c"]

    async def test_an_overloaded_model_is_asked_again(self, claude_command: list[str], tmp_path: Path) -> None:
        turn = Turn(Fail("Overloaded", 529, times=1), Say("half of it"), Fail("Overloaded", 529, times=1), Say("whole"))
        async with OfflineModel(Script([turn])) as model, claude(claude_command, model, tmp_path) as agent:
            agent.say("a")
            assert (await agent.result())["result"] == "whole"
            retry = next(line for line in agent.heard if line.get("subtype") == "api_retry")
            assert (retry["error_status"], retry["error"]) == (529, "overloaded")
            assert len(model.requests) == 3

    async def test_a_refusal_ends_the_turn_as_an_error(self, claude_command: list[str], tmp_path: Path) -> None:
        script = Script([Turn(Fail("Overloaded", 529)), Turn(Say("second"))])
        async with OfflineModel(script) as model, claude(claude_command, model, tmp_path) as agent:
            agent.say("a")
            ended = await agent.result()
            assert (ended["is_error"], ended["api_error_status"]) == (True, 529)
            agent.say("b")
            assert (await agent.result())["result"] == "second"
            assert [seen.message for seen in model.requests] == ["a", "a", "b"]
