"""The sudo rules that a test sees: the stage's own /etc/sudoers, in the private mount namespace only."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rules:
    """What the service account may do as the people: the commands themselves and /bin/kill, nothing else."""

    service: str
    people: tuple[str, ...]
    commands: tuple[str, ...]
    command_tags: str = "NOPASSWD:"  # "" or "PASSWD:" wants a password; "NOPASSWD:SETENV:" lets --preserve-env through
    kill_tags: str | None = "NOPASSWD:"  # None: no rule for /bin/kill at all
    use_pty: bool = True  # as Debian has it
    defaults: tuple[str, ...] = ()  # more lines, such as "noexec"
    lines: tuple[str, ...] = ()  # more lines, as they are

    def text(self) -> str:
        lines = ["Defaults env_reset", f"Defaults {'' if self.use_pty else '!'}use_pty"]
        lines += [f"Defaults {line}" for line in self.defaults]
        lines += self.lines
        lines.append("root ALL=(ALL:ALL) NOPASSWD: ALL")
        for person in self.people:
            lines.append(f"{self.service} ALL=({person}) {self.command_tags} {', '.join(self.commands)}")
            if self.kill_tags is not None:
                lines.append(f"{self.service} ALL=({person}) {self.kill_tags} /bin/kill")
        return "\n".join(lines) + "\n"


ROOT = "Defaults env_reset\nDefaults use_pty\nroot ALL=(ALL:ALL) NOPASSWD: ALL\n"  # without it no test could go on


def write(rules: Rules, file: Path) -> None:
    """Check the rules with visudo, then write them into the stage's /etc/sudoers."""
    write_text(rules.text(), file)


def write_text(text: str, file: Path) -> None:
    """The same with the text of a whole file, which a sudo that starts meanwhile never reads in part."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.chmod(0o440)
    checked = subprocess.run(
        ["visudo", "-c", "-f", str(draft)], capture_output=True, text=True, check=False, timeout=10
    )
    if checked.returncode != 0:
        draft.unlink()
        raise AssertionError(f"visudo refuses the rules of the test:\n{text}{checked.stdout}{checked.stderr}")
    draft.replace(file)
