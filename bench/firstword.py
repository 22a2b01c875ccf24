"""From nothing to the first word of a real engine, beside the engine without anything around it."""

from bench import talkers
from bench.figures import CannotRun, Figure, Section, ratio
from bench.ground import Ground, say
from bench.streaming import column, in_turn
from bench.talkground import real_engines, talking

MOMENTS = (("ready", "ready for a message"), ("first", "first word"))


def first_word_section(ground: Ground, rounds: int) -> Section:
    """Each real engine on the offline model, started, asked, and ended, by each contender in turn."""
    figures: list[Figure] = []
    with real_engines(ground) as found:
        if not found:
            raise CannotRun("no real engine was found (codex from the wheel or npm, claude from npm, or on PATH)")
        for real in found:
            say(f"first word: {real.name}")
            names = talkers.contenders(real.engine)
            services = {name: talking(ground, real.engine, name, real.program) for name in names}
            try:
                times = in_turn(services, rounds, what="first")
            finally:
                for service in services.values():
                    service.close()
                ground.judge.clear()
            for moment, what in MOMENTS:
                case = f"{real.name}, {what}"
                ours = column(times["corral"], moment)
                for name, answers in times.items():
                    values = column(answers, moment)
                    label = "bare engine" if name == "bare" else talkers.label(real.engine, name)
                    figures.append(Figure(case, label, "ms", values, ratio(values, ours)))
                pipe = column(times["bare"], moment)
                added = tuple(mine - plain for mine, plain in zip(ours, pipe, strict=True))
                figures.append(Figure(case, "added by Corral to the bare engine", "ms", added))
    text = "The bare engine is asyncio.create_subprocess_exec, the handshake, one message, and json.loads of each line."
    return Section("From the start to the first word", text, tuple(figures))
