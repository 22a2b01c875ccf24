"""One file handed over by a service account: file_driver.py REQUEST. Run by that account, as a service would do it.

The request is JSON: `act` (`put`, `get`, or `command` for the command line that needs a rule), `account`, `workspace`,
`state_dir`, and `name` or `path`. Pieces are read from standard input; the answer is one line of standard output, with
the bytes of the file behind it.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from corral.service.files import Files, FilesError, Place, command


async def _input() -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while data := await loop.run_in_executor(None, os.read, 0, 1 << 16):
        yield data


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    request = json.loads(sys.argv[1])
    answer: dict[str, object] = {"command": command()}
    data = b""
    if request["act"] != "command":
        place = Place("daniel", request["account"], request["workspace"], Path(request["state_dir"]))
        answer, data = await _hand_over(place, request)
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)


async def _hand_over(place: Place, request: dict[str, str]) -> tuple[dict[str, object], bytes]:
    files = Files()
    try:
        if request["act"] == "put":
            return {"path": await files.put(place, request["name"], _input(), owner=None)}, b""
        async with files.get(place, request["path"], owner=None) as file:
            return {"name": file.name, "size": file.size}, b"".join([piece async for piece in file.pieces])
    except FilesError as error:
        return {"error": str(error)}, b""


if __name__ == "__main__":
    asyncio.run(main())
