"""A plain HTTP client for the offline model: it sends bytes, and reads a whole reply or a stream of events."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from corral.offline import OfflineModel


@dataclass
class Answer:
    """What a client read: the status, the events with the time of each, or the body of an error."""

    status: int
    events: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    body: bytes = b""

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def text(self) -> str:
        """What the model said, in the deltas of either API."""
        said = []
        for event in self.events:
            if event["type"] == "response.output_text.delta":
                said.append(event["delta"])
            elif event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
                said.append(event["delta"]["text"])
        return "".join(said)

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of the Responses API."""
        return [event["item"] for event in self.events if event["type"] == "response.output_item.done"]


async def connect(model: OfflineModel) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = model.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    return await asyncio.open_connection(host, int(port))


async def send(model: OfflineModel, raw: bytes) -> Answer:
    """Send bytes and read to the end of the connection."""
    reader, writer = await connect(model)
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            answer = Answer(status)
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    answer.events.append(json.loads(line[6:]))
                    answer.times.append(time.monotonic())
                elif not line.startswith(b"event: "):
                    answer.body += line
            return answer
    finally:
        writer.close()
        await writer.wait_closed()


def request(method: str, path: str, body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
