"""The offline model as a program: it writes its address, and serves until its standard input ends."""

import asyncio
import sys

from corral.offline import OfflineModel, Say, Script, Turn


async def main() -> None:
    """Answer every message with the same few words."""
    async with OfflineModel(Script(then=lambda _: Turn(Say("a few words, one after the other")))) as model:
        sys.stdout.write(model.base_url + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
