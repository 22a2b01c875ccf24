"""The offline model: it streams what the script says, keeps its bounds, and needs no memory of a conversation."""

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.backends.codex.offline import codex_arguments, codex_overrides
from corral.offline import Call, Fail, OfflineModel, Pause, Run, Say, Script, Turn
from corral.offline import http as offline_http
from corral.offline.script import timed_deltas
from tests.harness.plain_http import Answer, connect, request, send

SHELL = [{"type": "function", "name": "exec_command"}]


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def result(call_id: str, output: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


async def ask(model: OfflineModel, *entries: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> Answer:
    body = {"model": "m", "stream": True, "input": list(entries), "tools": SHELL if tools is None else tools}
    return await send(model, request("POST", "/v1/responses", json.dumps(body).encode()))


async def test_an_answer_is_one_well_formed_stream() -> None:
    async with OfflineModel(Script([Turn(Say("Hello there, you."))])) as model:
        answer = await ask(model, user("hi"))
    assert answer.status == 200
    assert answer.kinds == [
        "response.created",
        "response.output_item.added",
        *["response.output_text.delta"] * 3,
        "response.output_item.done",
        "response.completed",
    ]
    assert answer.text == "Hello there, you."
    assert answer.items[0]["content"][0]["text"] == "Hello there, you."
    usage = answer.events[-1]["response"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


async def test_deltas_arrive_one_by_one() -> None:
    async with OfflineModel(Script([Turn(Say("one two three", pause=0.1))])) as model:
        answer = await ask(model, user("hi"))
    deltas = [at for at, kind in zip(answer.times, answer.kinds, strict=True) if kind.endswith("delta")]
    assert len(deltas) == 3
    assert all(later - earlier > 0.05 for earlier, later in pairwise(deltas))


async def test_a_tool_call_ends_the_answer_and_its_output_brings_the_next() -> None:
    async with OfflineModel(Script([Turn(Say("Looking."), Run("ls", wait=2), Say("Done."))])) as model:
        first = await ask(model, user("go"))
        call = first.items[1]
        second = await ask(model, user("go"), *first.items, result(call["call_id"], "a file"))
        assert [seen.results for seen in model.requests] == [(), ("a file",)]
    assert first.text == "Looking."
    assert (call["type"], call["name"]) == ("function_call", "exec_command")
    assert json.loads(call["arguments"]) == {"cmd": "ls", "yield_time_ms": 2000}
    assert second.text == "Done."


async def test_the_conversation_itself_says_where_the_script_stands() -> None:
    script = Script([Turn(Say("first")), Turn(Run("x"), Say("second"))])
    async with OfflineModel(script) as model:
        context = user("<environment_context>\n  <cwd>/</cwd>\n</environment_context>")
        assert (await ask(model, context, user("a"))).text == "first"
        resumed = [context, user("a"), user("b"), result("c", "out")]
        assert (await ask(model, *resumed)).text == "second"
        assert (await ask(model, *resumed)).text == "second", "a retry must get the same answer"
        assert (await ask(model, context, user("a"))).text == "first", "another conversation begins at the beginning"


async def test_a_script_that_ran_out_echoes() -> None:
    async with OfflineModel() as model:
        assert (await ask(model, user("good morning"))).text == "You said: good morning"


async def test_a_turn_that_is_over_gets_an_empty_answer() -> None:
    async with OfflineModel(Script([Turn(Run("x"))])) as model:
        answer = await ask(model, user("a"), result("c", "out"))
    assert answer.kinds == ["response.created", "response.completed"]


@pytest.mark.parametrize(
    ("tools", "name"),
    [(["exec_command", "shell"], "exec_command"), (["shell_command"], "shell_command"), (["shell"], "shell")],
)
async def test_a_command_goes_to_the_shell_tool_that_is_offered(tools: list[str], name: str) -> None:
    async with OfflineModel(Script([Turn(Run("ls"))])) as model:
        answer = await ask(model, user("a"), tools=[{"type": "function", "name": tool} for tool in tools])
    assert answer.items[0]["name"] == name


async def test_any_tool_can_be_called() -> None:
    async with OfflineModel(Script([Turn(Call("view_image", {"path": "/x.png"}))])) as model:
        item = (await ask(model, user("a"))).items[0]
    assert (item["name"], json.loads(item["arguments"])) == ("view_image", {"path": "/x.png"})


async def test_a_failure_is_a_status_at_first_and_an_event_later() -> None:
    script = Script([Turn(Fail("no credit", status=402)), Turn(Say("well"), Fail("broken"))])
    async with OfflineModel(script) as model:
        refused = await ask(model, user("a"))
        broken = await ask(model, user("a"), user("b"))
    assert refused.status == 402
    assert json.loads(refused.body)["error"]["message"] == "no credit"
    assert broken.kinds[-1] == "response.failed"
    assert broken.events[-1]["response"]["error"]["message"] == "broken"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("GET", "/v1/models"), 200),
        (request("GET", "/v1/responses"), 404),
        (request("POST", "/v1/nothing", b"{}"), 404),
        (request("POST", "/v1/responses", b"{"), 400),
        (request("POST", "/v1/responses", b"[]"), 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/responses HTTP/1.1\r\ncontent-length: many\r\n\r\n", 400),
        (b"POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/responses HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 413),
    ],
)
async def test_what_is_no_request_is_refused(raw: bytes, status: int) -> None:
    async with OfflineModel() as model:
        assert (await send(model, raw)).status == status
        assert (await ask(model, user("still there?"))).status == 200


async def test_a_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_http, "IO_TIMEOUT", 0.05)
    async with OfflineModel() as model:
        reader, writer = await connect(model)
        writer.write(b"POST /v1/responses HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_closing_hangs_up_on_a_pause() -> None:
    async with OfflineModel(Script([Turn(Say("wait"), Pause(600))])) as model:
        asking = asyncio.create_task(ask(model, user("a")))
        await model.seen(lambda seen: seen.message == "a")
        began = time.monotonic()
    answer = await asking
    assert time.monotonic() - began < 3
    assert "response.completed" not in answer.kinds


async def test_it_listens_on_the_loopback_only() -> None:
    async with OfflineModel() as model:
        assert model.base_url.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="not listening"):
        _ = model.base_url


def test_overrides_are_toml_assignments() -> None:
    overrides = codex_overrides("http://127.0.0.1:1/v1")
    assert 'model_providers.corral_offline.base_url="http://127.0.0.1:1/v1"' in overrides
    assert "model_providers.corral_offline.requires_openai_auth=false" in overrides
    arguments = codex_arguments("http://127.0.0.1:1/v1")
    assert arguments[0::2] == ["-c"] * len(overrides)
    assert arguments[1::2] == overrides


@given(st.text())
def test_the_deltas_are_the_text(text: str) -> None:
    deltas = [delta for _, delta in timed_deltas(Say(text))]
    assert "".join(deltas) == text
    assert all(deltas)
