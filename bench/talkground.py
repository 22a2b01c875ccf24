"""What the measurements of backends stand on: services that talk, engines that only stream, and the real ones."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.ground import Driver, Ground, Lines
from tests.harness import engines

_numbers = count()


def peer(ground: Ground, engine: str) -> str:
    """Return a program that plays this engine."""
    program = ground.package / f"{engine}-peer"
    if not program.exists():
        script = ground.package / "bench" / "peer.py"
        program.write_text(f'#!/bin/sh\nexec {ground.stage.python} -I -S {script} {engine} "$@"\n')
        program.chmod(0o755)
    return str(program)


def talking(ground: Ground, engine: str, name: str, program: str) -> Driver:
    """Return a service, in folders of its own, that talks to this engine in this way."""
    place = f"talk/{next(_numbers)}-{engine}-{name}"
    ground.stage.folder("talk", 0o755)
    ground.stage.folder(place, 0o755)
    state, folder = (ground.stage.folder(f"{place}/{part}", 0o700, ground.service) for part in ("state", "work"))
    arguments = [engine, name, program, str(state), str(folder), str(ground.service.home)]
    return ground.program("bench.talking", *arguments)


@dataclass(frozen=True)
class Real:
    """A real engine, ready to talk to the offline model."""

    name: str
    engine: str
    program: str


@contextmanager
def real_engines(ground: Ground) -> Iterator[list[Real]]:
    """Point every real engine of this machine at an offline model: in the home of the service account."""
    model = Lines(ground.command("bench.model"), **ground.manner())
    ground.judge.hide(model.pid)
    try:
        base_url = model.read_line()
        yield [_ready(ground, engine, base_url) for engine in _installed()]
    finally:
        model.close()


def _installed() -> list[engines.Engine]:
    codex, wheel, claude = engines.find("codex"), engines.find_codex_wheel(), engines.find("claude")
    found = [("codex", codex, "codex"), ("codex", wheel, "codex, wheel"), ("claude", claude, "claude")]
    if codex == wheel:
        found = found[1:]
    return [engines.Engine(engine, path, name) for engine, path, name in found if path and Path(path).exists()]


def _ready(ground: Ground, engine: engines.Engine, base_url: str) -> Real:
    program = engines.expose(shutil.which(engine.program) or engine.program, ground.stage.expose)
    engine.point(ground.service.home, base_url, None if ground.lacking else ground.service.uid)
    return Real(f"real {engine.origin}", engine.name, program)
