"""What the campaign stands on: the tests' stage, with accounts of its own for each world that exists at a time."""

import compileall
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.harness import namespace, sudoers
from tests.harness import stage as staging
from tests.harness.stage import REPOSITORY, Account, Stage

FIRST_UID = 1_900_000_000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_PID_MAX = (6, 14)  # the kernel whose PID namespaces have a pid_max of their own
SLOW = """#!/bin/sh
# For pam_exec: as slow as the world wants it.
case $PAM_TYPE in account) flag={folder}/slow-account ;; open_session) flag={folder}/slow-session ;; *) exit 0 ;; esac
while [ "$(cat "$flag" 2>/dev/null)" = hang ]; do sleep 0.05; done
[ ! -s "$flag" ] || sleep "$(cat "$flag")"
"""


@dataclass(frozen=True)
class Slot:
    """A place for one world at a time: its folder, and the accounts that nobody else has."""

    number: int
    folder: Path
    service: Account
    person: Account
    third: Account
    python: str
    python_path: tuple[str, ...]
    harness: Path
    campaign: Path
    slow_pam: Path
    own_pid_max: bool

    @property
    def env(self) -> dict[str, str]:
        """The environment of the supervisor."""
        return {"PATH": PATH, "HOME": str(self.service.home), "USER": self.service.name, "LANG": "C.UTF-8"}

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Slot":
        known: dict[str, Any] = json.loads(text)
        for name in ("service", "person", "third"):
            known[name] = Account(**{**known[name], "home": Path(known[name]["home"])})
        for name in ("folder", "harness", "campaign", "slow_pam"):
            known[name] = Path(known[name])
        known["python_path"] = tuple(known["python_path"])
        return cls(**known)


def raise_ground(number: int, source: Path | None = None) -> tuple[Stage, list[Slot]]:
    """Raise the stage, and make so many slots. `source` is another version of Corral's src to be judged."""
    stage = staging.raise_stage()
    if stage.lacking is not None:
        return stage, []
    # As an installer does: the service account may not, and would compile the reaper at each of its starts.
    compileall.compile_dir(source or REPOSITORY / "src", quiet=2)
    if source is not None:
        namespace.bind(source.resolve(), stage.root / "src")
    (stage.root / "campaign").mkdir()
    namespace.bind(REPOSITORY / "campaign", stage.root / "campaign")
    (stage.root / "worlds").mkdir()
    slots = [_slot(stage, index) for index in range(number)]
    _allow(stage, slots)
    return stage, slots


def _slot(stage: Stage, number: int) -> Slot:
    names = [f"corral-{role}-{number}" for role in ("service", "person", "third")]
    accounts = [_account(stage, name, FIRST_UID + 3 * number + index) for index, name in enumerate(names)]
    folder = stage.root / "worlds" / str(number)
    folder.mkdir()
    return Slot(
        number=number,
        folder=folder,
        service=accounts[0],
        person=accounts[1],
        third=accounts[2],
        python=stage.python,
        python_path=(str(stage.root), *stage.python_path),
        harness=stage.harness,
        campaign=stage.root / "campaign",
        slow_pam=_slow_pam(stage, folder, number),
        own_pid_max=_release() >= OWN_PID_MAX,
    )


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())


def _account(stage: Stage, name: str, uid: int) -> Account:
    """Add an account to the stage's own user list."""
    home = stage.root / "home" / name
    home.mkdir(mode=0o700)
    os.chown(home, uid, uid)
    lines = {
        "passwd": f"{name}:x:{uid}:{uid}::{home}:/bin/sh",
        "shadow": f"{name}:*:19000:0:99999:7:::",
        "group": f"{name}:x:{uid}:",
    }
    for file, line in lines.items():
        with (stage.root / "etc" / file).open("a") as list_:
            list_.write(line + "\n")
    return Account(name, uid, uid, home)


def _slow_pam(stage: Stage, folder: Path, number: int) -> Path:
    """Write sudo's PAM rules with a script in them that can be told to take its time."""
    script = stage.root / f"slow-{number}"
    script.write_text(SLOW.format(folder=folder))
    script.chmod(0o755)
    rules = stage.root / f"pam-{number}"
    line = f"optional pam_exec.so quiet {script}"
    rules.write_text(f"account {line}\nsession {line}\n" + (stage.root / "etc/pam.d/sudo").read_text())
    return rules


def _allow(stage: Stage, slots: list[Slot]) -> None:
    lines = [
        f"{slot.service.name} ALL=({slot.person.name}) NOPASSWD: {stage.python}, {slot.folder}/program, /bin/kill"
        for slot in slots
    ]
    assert stage.sudoers_file is not None
    rules = stage.rules()
    sudoers.write(sudoers.Rules(rules.service, rules.people, rules.commands, lines=tuple(lines)), stage.sudoers_file)
