"""sudo: that it is there and works, and what it lets this account do to end what others' agents leave."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from corral.install.calls import call
from corral.install.finding import Finding, Findings, error, ok, skip, warn
from corral.install.subjects import Subjects
from corral.install.sudoers import FILE, SudoersError, named
from corral.process.bare import sudo as calls
from corral.service import files

_NOBODY = "nobody's agents run under another account"
_PAM = Path("/etc/pam.d")
_MOST_INCLUDES = 20
_DRAFT = "/root/corral.rules"

# No process can have this pid: Linux has none above 4194304, others far below. A kill of it changes nothing anywhere,
# and goes all the way through sudo, its rule and its PAM to the account, and into the kernel.
_IMPOSSIBLE = 4194305
_SIGNALS = ("0", "TERM", "CONT", "STOP", "KILL")
_FOLDER_OPTION_SINCE = (1, 9, 3)


def sudo(subjects: Subjects) -> Findings:
    """That it is there, may become root, and is new enough."""
    if not subjects.others:
        yield skip("sudo", _NOBODY)
        return
    if subjects.sudo is None:
        yield error("sudo", "there is none: agents of other accounts cannot be started", "install sudo")
        return
    said = call([subjects.sudo, "-V"]).first_line
    yield from _version(subjects.sudo, said)
    about, place = Path(subjects.sudo).stat(), os.statvfs(subjects.sudo)
    if about.st_uid != 0 or not about.st_mode & stat.S_ISUID:
        yield error("sudo", f"{subjects.sudo} is not root's with the set-uid bit", "install the system's sudo anew")
    elif place.f_flag & os.ST_NOSUID:
        yield error("sudo", f"{subjects.sudo} lies on a file system mounted nosuid", "mount it without nosuid")


def _version(program: str, said: str) -> Iterator[Finding]:
    if said.startswith("sudo-rs"):
        yield warn("sudo", f"{program} is {said}, with which Corral was not tried", "the original sudo works")
        return
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    if numbers is None:
        yield error("sudo", f"{program} says no version: {said or 'nothing'}", "look whether it works at all")
    elif tuple(map(int, numbers.groups())) < _FOLDER_OPTION_SINCE:
        yield warn(
            "sudo",
            f"{numbers[0]} at {program} cannot change the folder (-D): an engine that is started in its workspace "
            "(claude) cannot work in homes that only their account may enter",
            "1.9.3 or newer can",
        )
    else:
        yield ok("sudo", f"{numbers[0]} at {program}")


def new_privileges(subjects: Subjects) -> Findings:
    """Whether anything above this process keeps set-uid programs from working."""
    label = "new privileges"
    if not subjects.others:
        yield skip(label, _NOBODY)
        return
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        mapped = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        yield skip(label, "this host has no /proc to say so")
        return
    if "NoNewPrivs:\t1" in lines:
        yield error(
            label,
            "no_new_privs is set on this process: sudo cannot work below it",
            "take NoNewPrivileges= and what implies it out of the unit (`corral units` names it), or off the container",
        )
    elif mapped[:2] != ["0", "0"] or int(mapped[2]) < 2**16:
        yield warn(label, "this is a user namespace: sudo reaches only accounts that are mapped into it")
    else:
        yield ok(label, "set-uid programs may work")


def pam(subjects: Subjects) -> Findings:
    """Whether sudo's PAM moves what it starts out of the service's cgroup."""
    label = "sudo's PAM"
    if not subjects.others:
        yield skip(label, _NOBODY)
        return
    lines = list(_session_lines("sudo"))
    if not lines:
        yield skip(label, f"{_PAM / 'sudo'} cannot be read or says nothing of sessions")
    elif any(re.search(r"\bpam_systemd\.so\b", line) for line in lines):
        yield warn(
            label,
            "pam_systemd gives every agent a session of its own, outside of the service's cgroup: Corral ends it "
            "all the same, but systemd's last KILL and the unit's limits do not reach it, and what is left when the "
            "service and its reapers are killed at once waits for the next start",
            f"if you do not need it: take pam_systemd out of the session lines of {_PAM / 'sudo'}",
        )
    else:
        yield ok(label, "sudo's agents stay in the service's cgroup")


def kill(subjects: Subjects, account: str) -> Findings:
    """Each signal that an ending sends, to a process that cannot exist, by the very call that the reaper makes."""
    label = f"{account}: kill"
    if os.getuid() == 0:
        yield skip(label, "root signals by itself; the doctor should run as the service's account")
        return
    if subjects.sudo is None:
        yield skip(label, "there is no sudo")
        return
    if pwd.getpwnam(account).pw_uid == 0:
        # The rule would be one to end everything on this machine: never a thing to advise.
        yield skip(label, "no rule is written for root, as whom no agent should run")
        return
    refused = {}
    for name in _SIGNALS:
        outcome = calls.run([subjects.sudo, "-n", "-u", account, calls.KILL, f"-{name}", str(_IMPOSSIBLE)])
        if calls.refused(outcome):
            refused[name] = outcome.message
    if not refused:
        yield ok(label, f"what {account} leaves running can be ended ({calls.KILL}: {', '.join(_SIGNALS)})")
        return
    names = "" if len(refused) == len(_SIGNALS) else f" with {', '.join(refused)}"
    words = next(iter(refused.values())).splitlines()
    yield error(
        label,
        f"what {account} leaves running cannot be ended{names}: {words[-1] if words else 'sudo refuses'}",
        f"add to sudoers, all of it: {_rule(subjects.service, account)}",
        *commands_to_fix(subjects),
    )


def hand_over(subjects: Subjects, account: str) -> Findings:
    """The program that hands files over, run as the account: without a request it does nothing."""
    label = f"{account}: files"
    if os.getuid() == 0:
        yield skip(label, "root needs no rule; the doctor should run as the service's account")
        return
    if subjects.sudo is None:
        yield skip(label, "there is no sudo")
        return
    if pwd.getpwnam(account).pw_uid == 0:
        yield skip(label, "no rule is written for root, as whom no agent should run")
        return
    outcome = calls.run(calls.command_line(subjects.sudo, account, files.command()))
    if outcome.status == 0:
        yield ok(label, f"files can be handed over to {account}")
        return
    words = outcome.message.splitlines()
    if calls.refused(outcome):
        yield warn(
            label,
            f"files cannot be handed over to {account}: {words[-1] if words else 'sudo refuses'}",
            "write the rules again with `corral sudoers`, and install them",
            *commands_to_fix(subjects),
        )
        return
    yield warn(
        label,
        f"{account} cannot run the program that hands files over: {words[-1] if words else 'it gave no reason'}",
        "install Corral, and the Python that it runs on, where every account may read them, such as /opt/corral",
    )


def commands_to_fix(subjects: Subjects) -> tuple[str, ...]:
    """The commands that install the rules. The draft lies where nobody but root could change it before it is read."""
    config = ["--config", str(subjects.config.path)] if subjects.config.path else []
    written = f"sudo -u {shlex.quote(subjects.service)} {shlex.join(['corral', 'sudoers', *config])} > {_DRAFT}"
    return (
        f"sudo sh -c {shlex.quote(written)}",
        f"sudo install -o root -g root -m 0440 {_DRAFT} {FILE} && sudo visudo -c",
    )


def _rule(service: str, account: str) -> str:
    try:
        return calls.rule(named(service), named(account), calls.KILL)
    except SudoersError as problem:
        return str(problem)


def _session_lines(service: str, depth: int = 0) -> Iterator[str]:
    """The lines of PAM for the sessions of a service, with those of the files that they include."""
    if depth > _MOST_INCLUDES:
        return
    try:
        text = (_PAM / service).read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["@include"]:
            yield from _session_lines(words[-1], depth + 1)
        elif words and words[0].lstrip("-") == "session":
            if words[1:2] in (["include"], ["substack"]):
                yield from _session_lines(words[2], depth + 1)
            else:
                yield " ".join(words[1:])
