"""Engines as backends: each one's wire protocol over a job's pipes, turned into one set of events.

`base` has the events and the Protocol; `Running` is that Protocol for any engine; `Codex` and `Claude` are engines::

    backend = Running(Codex(), Launch(user="daniel", workspace="/home/daniel/project"))
    await backend.start()
    async for event in backend.send(Input("What is in this folder?")):
        ...
    ended = await backend.end()
"""
