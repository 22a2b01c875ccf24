"""Engines as backends: each one's wire protocol over a job's pipes, turned into one set of events.

`backend` has the Protocol, `events` what it says; `BackendProcess` is that Protocol for any engine, and `Codex` and
`Claude` are engines::

    backend = BackendProcess(Codex(), Launch(user="daniel", workspace="/home/daniel/project"))
    await backend.start()
    async for event in backend.send(Input("What is in this folder?")):
        ...
    ended = await backend.end()
"""
