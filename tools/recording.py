"""Records the picture of the README: a real chat with the real Codex and the offline model, on an emulated terminal.

`python tools/recording.py FILE.svg` types a few lines into `corral chat --offline`, and draws what a person sees at
four moments, one after the other, as one SVG that fetches nothing.
"""

import copy
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import codex_cli_bin
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, ROWS = 86, 22
WITHIN = 60.0  # seconds for each thing that is to be seen
SECONDS = (3, 4, 6, 9)
"""How long each moment is shown."""
BUSY = "run setsid sleep 1000 & sleep 600"
PYTE_COLORS = {"brown": "yellow", "brightbrown": "bright_yellow"}
# One font of the reader's own, and no address in it: nothing is fetched.
FORMAT = """\
<svg class="frame" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }} {styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


class Terminal:
    """A program on an emulated terminal."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.set_blocking(self._master, False)
        home = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "PS1": "$ "}
        home["PATH"] = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        env = {**os.environ, **home, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self.program = subprocess.Popen(
            ["setsid", "-c", *argv], stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env
        )
        os.close(slave)

    @property
    def text(self) -> str:
        try:
            while data := os.read(self._master, 65536):
                self._stream.feed(data)
        except OSError:
            pass
        return "\n".join(self.screen.display)

    def enter(self, line: str) -> None:
        for letter in f"{line}\r":
            os.write(self._master, letter.encode())
            time.sleep(0.005)  # a burst would be taken for a paste

    def until(self, condition: Callable[[str], object], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition(self.text):
            if time.monotonic() > deadline:
                raise SystemExit(f"recording: {WITHIN:g} s, and not yet: {what}\n{self.text}")
            time.sleep(0.05)

    def picture(self) -> Text:
        """What is seen now."""
        self.until(lambda _: True, "")
        found = Text()
        screen = copy.deepcopy(self.screen.buffer)
        for y in range(ROWS):
            row = Text()
            for style, cells in groupby((screen[y][x] for x in range(COLUMNS)), key=_style):
                row.append("".join(cell.data or " " for cell in cells), style)
            row.rstrip()
            found.append(row).append("\n")
        return found


def _style(cell: pyte.screens.Char) -> Style:
    return Style(
        color=_color(cell.fg), bgcolor=_color(cell.bg), bold=cell.bold, italic=cell.italics, reverse=cell.reverse
    )


def _color(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    name = PYTE_COLORS.get(name, name)
    return re.sub(r"^bright(?!_)", "bright_", name)


def record(folder: Path) -> list[Text]:
    """Hold the chat; what was seen at each moment."""
    (folder / "bin").mkdir()
    (folder / "bin" / "codex").symlink_to(codex_cli_bin.bundled_codex_path())
    argv = [sys.executable, "-m", "corral", "chat", "--offline", "--sandbox", "danger-full-access"]
    chat = Terminal(argv, folder)
    try:
        seen = []
        chat.until(lambda text: "\n>" in text, "the prompt")
        chat.enter("hello")
        chat.until(lambda text: "You said: hello" in text, "an answer")
        seen.append(chat.picture())
        chat.enter(BUSY)
        chat.until(lambda text: "▸" in text or "sleep 600" in text.split("hello")[-1], "a tool that runs")
        time.sleep(1.5)  # until the grandchild is in a session of its own
        seen.append(chat.picture())
        chat.enter("/ps")
        chat.until(lambda text: "sleep 1000" in text.split("/ps")[-1], "its processes")
        seen.append(chat.picture())
        chat.enter("/stop")
        chat.until(lambda text: "proven" in text, "the verdict")
        time.sleep(0.5)
        seen.append(chat.picture())
        chat.enter("/quit")
        chat.program.wait(30)
        return seen
    finally:
        if chat.program.poll() is None:
            chat.program.terminate()
            chat.program.wait(30)


def drawn(frames: list[Text]) -> str:
    """The moments one after the other, for ever; a reader who wants no motion sees the last."""
    parts = []
    for number, frame in enumerate(frames):
        console = Console(width=COLUMNS, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
        console.print(frame, end="", no_wrap=True, crop=False)
        svg = console.export_svg(title="corral chat", code_format=FORMAT, unique_id=f"f{number}")
        parts.append(svg.replace('class="frame"', f'class="frame f{number}"'))
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', parts[0])
    assert size is not None
    total = sum(SECONDS[: len(frames)])
    rules, begins = [], 0.0
    for number in range(len(frames)):
        ends = begins + 100 * SECONDS[number] / total
        rules.append(
            f"@keyframes k{number} {{ 0%, {begins:.2f}% {{ opacity: 0 }} {begins + 0.01:.2f}%, {ends:.2f}% "
            f"{{ opacity: 1 }} {min(100, ends + 0.01):.2f}%, 100% {{ opacity: {int(ends >= 100)} }} }}"
            f" .f{number} {{ animation: k{number} {total}s step-end infinite; opacity: 0 }}"
        )
        begins = ends
    last = len(frames) - 1
    still = f"@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none }} .f{last} {{ opacity: 1 }} }}"
    style = "\n".join([*rules, still])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[1]} {size[2]}" role="img"'
    label = (
        'aria-label="A chat: an agent starts a process in a session of its own, and /stop ends it all and proves it"'
    )
    return f"{head} {label}>\n<style>{style}</style>\n{''.join(parts)}</svg>\n"


def main(target: str) -> None:
    with tempfile.TemporaryDirectory(prefix="corral-") as folder:
        frames = record(Path(folder))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(drawn(frames))
    print(f"{target}: {Path(target).stat().st_size / 1024:.0f} KB, {len(frames)} moments")


if __name__ == "__main__":
    main(sys.argv[1])
