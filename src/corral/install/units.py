"""The service as a unit of systemd, and the folders for temporary files that systemd makes at boot.

What hardening leaves sudo alone was tried with systemd 252, setting by setting, for a service with User=. Every setting
that is made by a seccomp filter implies NoNewPrivileges= there, under which no set-uid program works.
"""

from __future__ import annotations

import grp
import math
import pwd
import re
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from corral.backends.environment import ACCOUNT_TMP
from corral.install.calls import call
from corral.install.sudoers import others

if TYPE_CHECKING:
    from corral.config import Config

UNIT = "/etc/systemd/system/corral.service"
TMPFILES = "/etc/tmpfiles.d/corral.conf"
STATE_OF_SYSTEM = Path("/var/lib")

DESCRIPTORS_OF_BACKEND = 8
"""Of the service: the lifeline, three pipes, and room for a look at the tree and a front end."""

STOP_MARGIN = 10.0
"""Seconds beyond [service] shutdown before a service manager kills what is left."""
_START_MARGIN = 60.0
_CLOSED = ("/usr", "/boot", "/efi", "/etc")
_DESCRIPTORS_BESIDE = 256
_WIDTH = 100
_SOFT_LIMIT_OF_SYSTEMD = 1024

# Measured with sudo 1.9.13: without SETUID and SETGID it does not start, without KILL it cannot relay TERM to another
# account, without AUDIT_WRITE it complains.
CAPABILITIES_OF_SUDO = (
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
    "CAP_SYS_RESOURCE",
    "CAP_DAC_READ_SEARCH",
)


IMPLY_NO_NEW_PRIVILEGES = (
    *("RestrictSUIDSGID", "RestrictNamespaces", "RestrictAddressFamilies", "RestrictRealtime", "LockPersonality"),
    *("MemoryDenyWriteExecute", "SystemCallFilter", "SystemCallArchitectures", "PrivateDevices", "ProtectClock"),
    *("ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
)


class UnitsError(Exception):
    """The unit cannot be written; the message says why."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """Lines of a unit, and why they are there."""

    why: str
    lines: Sequence[str]


def systemd(config: Config, user: str, program: Sequence[str]) -> str:
    """The text of corral.service. Raises UnitsError."""
    command = [*program, "serve", *(["--config", str(config.path)] if config.path else [])]
    sections = (
        ("Unit", [*_unit()]),
        ("Service", [*_process(config, user, command), *_places(config), *_bounds(config), *_hardening(config, user)]),
        ("Install", [_Setting("Starts it with the machine.", ["WantedBy=multi-user.target"])]),
    )
    head = f"# Corral as a service. Written by `corral units systemd` for {UNIT}.\n"
    return head + "".join(f"\n[{name}]\n{_block(settings)}" for name, settings in sections)


def tmpfiles(config: Config, user: str) -> str:
    """The text of a fragment of tmpfiles.d: a folder for temporary files for each account."""
    lines = [
        *_comment(
            f"Folders for temporary files of Corral's agents. Written by `corral units tmpfiles` for {TMPFILES}. One "
            "for each account, which nobody else may enter: names in /tmp can be guessed, and laid ready by others. "
            "Not below /run, which is memory, and not below a folder of the service's account, in which "
            "systemd-tmpfiles refuses to make anything for others. What was not touched for 10 days is cleared away."
        ).splitlines(),
        f"d {ACCOUNT_TMP} 0755 root root -",
    ]
    for account in others(config, user):
        entry = pwd.getpwnam(account)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*", account):
            raise UnitsError(f"tmpfiles.d has no plain words for the account {account!a}: give it a plain name")
        lines.append(f"d {ACCOUNT_TMP}/{account} 0700 {account} {_group(entry.pw_gid)} 10d")
    return "\n".join(lines) + "\n"


def verify(text: str) -> str:
    """What systemd-analyze says against a unit; empty when it is content, or is not there."""
    program = which("systemd-analyze")
    if program is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="corral-units-") as folder:
        draft = Path(folder) / "corral.service"
        draft.write_text(text)
        said = call([program, "verify", "--man=no", str(draft)], 30.0)
        # It speaks of other units of the machine as well.
        return "\n".join(line for line in (said.out + said.err).splitlines() if "corral" in line)


def notices(config: Config) -> Iterator[str]:
    """Sentences for whoever installs the unit."""
    if config.service.socket is None:
        yield (
            'set socket = "/run/corral/corral.sock" below [service]: the service finds that place by itself, and '
            "`corral chat` and the operator's commands, which systemd does not start, do not"
        )
    if "state_dir" not in config.service.model_fields_set:
        yield 'set state_dir = "/var/lib/corral" below [service]: the service\'s account may have no home to keep it in'
    elif not _below_var_lib(config):
        folder = config.service.state_dir
        yield f"systemd does not make {folder}: make it, for the service's account, with mode 0700"
        if any(folder.is_relative_to(closed) for closed in _CLOSED):
            yield f"{folder} cannot be written by a service with ProtectSystem=full: name a state_dir below /var/lib"


def word(text: str) -> str:
    """A word of a command line, as systemd takes it literally. Raises UnitsError for what is not one line."""
    if not text.isprintable():
        raise UnitsError(f"systemd has no words for {text!a}: it is not printable")
    doubled = text.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w/.,:=@%$+-]+", doubled):
        return doubled
    escaped = doubled.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _block(settings: Iterable[_Setting]) -> str:
    return "".join(_comment(one.why) + "".join(f"{line}\n" for line in one.lines) for one in settings)


def _comment(text: str) -> str:
    wrapped = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in wrapped)


def _unit() -> Iterator[_Setting]:
    yield _Setting("What systemctl shows.", ["Description=Corral: coding agents, each under its person's account"])
    yield _Setting(
        "Models and chats are on the network, and accounts may be in a directory.",
        ["Wants=network-online.target", "After=network-online.target nss-user-lookup.target"],
    )
    yield _Setting(
        "A config that cannot be used is no reason to try for ever.",
        ["StartLimitIntervalSec=10min", "StartLimitBurst=10"],
    )


def _process(config: Config, user: str, command: Sequence[str]) -> Iterator[_Setting]:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", user)
    yield _Setting(
        "The service's account, not root: sudo takes it to people's accounts.",
        [f"User={user if plain else pwd.getpwnam(user).pw_uid}"],
    )
    yield _Setting(
        "It says by itself when it serves, and nobody below it may say so.", ["Type=notify", "NotifyAccess=main"]
    )
    yield _Setting("The service.", [f"ExecStart={' '.join(map(word, command))}"])
    yield _Setting("Reads the config again; turns that run go on.", ["ExecReload=/bin/kill -HUP $MAINPID"])
    yield _Setting(
        "TERM goes to the service alone, which ends each agent in its own way; then KILL goes to whatever is left. "
        "With control-group every agent would get TERM in the middle of its goodbye; process would leave them running.",
        ["KillMode=mixed"],
    )
    yield _Setting(
        f"Longer than [service] shutdown, {_seconds(config.service.shutdown)}: what is killed earlier proves nothing.",
        [f"TimeoutStopSec={_seconds(config.service.shutdown + STOP_MARGIN)}"],
    )
    ladder = config.ladder.grace + config.ladder.kill
    yield _Setting(
        "First it ends what a killed service left, at the worst one ladder after the other.",
        [f"TimeoutStartSec={_seconds(_START_MARGIN + config.pool.backends * ladder)}"],
    )
    yield _Setting(
        "A service that died comes back; one that was stopped does not.", ["Restart=on-failure", "RestartSec=5"]
    )
    yield _Setting(
        "An agent that the kernel ended for lack of memory is no reason to stop the service.", ["OOMPolicy=continue"]
    )


def _places(config: Config) -> Iterator[_Setting]:
    yield _Setting("Its cgroup is its own: it may make others in it, one for each agent.", ["Delegate=yes"])
    yield _Setting(
        "/run/corral, for the socket. People may enter: the service asks the kernel who they are.",
        ["RuntimeDirectory=corral", "RuntimeDirectoryMode=0755"],
    )
    if below := _below_var_lib(config):
        yield _Setting(
            f"Makes {config.service.state_dir} for the account. Conversations and the ledger are nobody else's to see.",
            [f"StateDirectory={below}", "StateDirectoryMode=0700"],
        )


def _below_var_lib(config: Config) -> str:
    """The state folder as StateDirectory= takes it literally; empty where systemd is not to make it.

    Not every path has words there: a colon makes a link of what follows it, and .. is refused.
    """
    folder = config.service.state_dir
    if "state_dir" not in config.service.model_fields_set or not folder.is_relative_to(STATE_OF_SYSTEM):
        return ""
    below = folder.relative_to(STATE_OF_SYSTEM)
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+/-]*", str(below)) and ".." not in below.parts
    return str(below) if plain else ""


def _bounds(config: Config) -> Iterator[_Setting]:
    yield _Setting(
        "As everybody has it. sudo adds this mask to its own: with 0077 nobody could share what an agent writes. The "
        "service closes its own files without it.",
        ["UMask=0022"],
    )
    yield _Setting("A core dump of an agent would hold its keys.", ["LimitCORE=0"])
    descriptors = _DESCRIPTORS_BESIDE + config.pool.backends * DESCRIPTORS_OF_BACKEND
    if descriptors > _SOFT_LIMIT_OF_SYSTEMD:
        yield _Setting(f"For {config.pool.backends} backends at once.", [f"LimitNOFILE={descriptors}:524288"])


def _hardening(config: Config, user: str) -> Iterator[_Setting]:
    yield _Setting(
        "/usr, /boot and /etc cannot be written, not by agents either. strict would close people's homes to them as "
        "well, and PrivateTmp= would hide from them what their people have in /tmp.",
        ["ProtectSystem=full"],
    )
    if not others(config, user) or pwd.getpwnam(user).pw_uid == 0:
        yield _Setting(
            "All agents run as the service's account: no sudo, and no other way to more rights, for any of them.",
            ["NoNewPrivileges=yes", "RestrictSUIDSGID=yes", "CapabilityBoundingSet="],
        )
        return
    yield _Setting(
        "What sudo needs and no more: SETUID and SETGID to change accounts, KILL to relay signals to them, AUDIT_WRITE "
        "for its log, SYS_RESOURCE for pam_limits, DAC_READ_SEARCH for a shadow file that root may not read. Agents "
        "have none of these. It bounds what sudo, ping or su can do below an agent, too: take it out if people's "
        "agents are to use theirs.",
        [f"CapabilityBoundingSet={' '.join(CAPABILITIES_OF_SUDO)}"],
    )
    yield _Setting(
        "Not here, because sudo does not work with it: NoNewPrivileges=, and what implies it under User= (tried with "
        f"systemd 252): {' '.join(f'{name}=' for name in IMPLY_NO_NEW_PRIVILEGES)}; nor PrivateUsers=, in which "
        "there is no root. Not here for other reasons: ProtectHome= (agents work in homes), ProtectControlGroups= "
        "(Delegate= is for writing there), ProtectProc= (what agents of other accounts leave must be seen to be "
        "ended).",
        [],
    )


def _seconds(seconds: float) -> str:
    return f"{math.ceil(seconds)}s"


def _group(gid: int) -> str:
    try:
        name = grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
    return name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) else str(gid)
