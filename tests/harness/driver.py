"""A supervisor for the tests: one job by corral.process, steered by JSON lines. Run by the service account.

Each line of standard input is {"do": "start" | "tree" | "notices" | "wait" | "write" | "end_part" | "end" | "ended",
…arguments}; each answer is one line of standard output, {"ok": …} or {"error": text, "kind": …}. At the end of input it
closes the job and exits.
"""

import asyncio
import json
import sys
from typing import Any

from corral.process import Job, JobError


async def _answer(job: Job | None, order: dict[str, Any]) -> tuple[Job | None, Any]:
    what = order.pop("do")
    if what == "start":
        job = await Job.start(order.pop("argv"), **order)
        return job, {"id": job.id, "pid": job.pid, "reaper_pid": job.reaper_pid, "user": job.user}
    if job is None:
        raise RuntimeError("no job was started")
    if what == "tree":
        return job, [
            {"pid": one.pid, "ppid": one.ppid, "depth": one.depth, "uid": one.uid, "sid": one.sid} for one in job.tree()
        ]
    if what == "notices":
        return job, job.notices
    if what == "wait":
        return job, await job.wait()
    if what == "write":
        # As it is: what a supervisor in its right mind would never write to its lifeline.
        reaper = job._supervision.reaper
        assert reaper is not None
        assert reaper.wire is not None
        assert reaper.wire.transport is not None
        reaper.wire.transport.write(order["text"].encode())
        return job, None
    if what == "end_part":
        kept = order.pop("keep_sessions")
        left = await job.end_part(lambda one: one.sid not in kept, **order)
        return job, [one.pid for one in left]
    report = await (job.end(**order) if what == "end" else job.ended())
    return job, report.to_json()


async def main() -> None:
    loop = asyncio.get_running_loop()
    job: Job | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            job, value = await _answer(job, json.loads(line))
            answer = {"ok": value}
        except JobError as error:
            answer = {"error": str(error), "kind": getattr(error, "kind", None)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    if job is not None:
        await job.end()


if __name__ == "__main__":
    asyncio.run(main())
