"""Whether sudo ran a command, and if not, why: what the reaper can see of it, and what sudo itself says."""

from __future__ import annotations

import sys

from corral.process.bare import procfs, sudo
from corral.process.bare.child import Plan
from corral.process.bare.errors import StartError
from corral.process.bare.request import Command


def has_started(pid: int, uid: int) -> bool:
    """Whether sudo has started its command as `uid`, or nothing can be learnt of that."""
    if sys.platform != "linux":
        return False
    process = procfs.read(pid)
    if process is None or process.uid == uid:
        return True  # Hidden (hidepid=2), so that nothing can be learnt; or sudo became the command.
    return any(below.uid == uid for below in procfs.descendants(pid))


def has_run(pid: int, uid: int) -> bool | None:
    """Whether a sudo that is dead, and not collected yet, had run its command as `uid`; None where nothing can tell."""
    if sys.platform != "linux":
        return None
    line, process = procfs.stat(pid), procfs.read(pid)
    if line is None or process is None:
        return None  # hidden (hidepid=2)
    # Without a PAM session sudo becomes the command itself. Its real uid is the caller's until then, and a zombie keeps
    # its credentials.
    if process.uid == uid:
        return True
    # A sudo that waited for a child shows that child's page faults. It is the command, or a program of sudo's own (mail
    # about the refusal).
    return None if line.children_faults else False


def why_refused(command: Command, plan: Plan, listed: sudo.Outcome, *, surely: bool) -> StartError | None:
    """What sudo had against a command, by its answer to `sudo -l` about it. surely: whether it surely did not run.

    None where a command that may have run cannot be shown to have been refused.
    """
    user, name = plan.user, command.argv[0]
    rule = sudo.rule(plan.service, user, plan.path, environment=bool(plan.preserve), directory=plan.directory)
    advice = f"add to sudoers: {rule}"
    if not surely and (listed.status in (0, None) or sudo.wants_password(listed)):
        # To list a rule can need a password that to use it does not (listpw in sudoers).
        return None
    if listed.status == 0:
        return _known_but_not_run(command, plan, advice)
    if "command not found" in listed.message:
        if plan.exists:
            return StartError("not_executable", f"{name} cannot be executed by {user}: check its mode")
        return StartError("not_found", f"{name}: command not found by sudo; name its full path")
    if sudo.wants_password(listed):
        text = f"sudo has no rule for {name} as {user} that works without a password: {advice}"
        return StartError("sudo_password", text)
    if not listed.message:
        return StartError("sudo_rule", f"sudo has no rule for {name} as {user}: {advice}")
    return StartError("sudo_refused", f"sudo does not run {name} as {user}: {listed.message}")


def _known_but_not_run(command: Command, plan: Plan, advice: str) -> StartError:
    """sudo lists the command and yet did not run it: a tag of its rule is missing, and which one sudo says itself."""
    reasons, kind = ["asks for a password"], "sudo_password"
    if plan.preserve:
        reasons, kind = [*reasons, "does not pass on " + ", ".join(plan.preserve)], "sudo_environment"
    if plan.directory:
        reasons, kind = [*reasons, f"may not start in {command.cwd}"], "cwd"
    return StartError(kind, f"sudo knows {command.argv[0]} as {plan.user}, but {' or '.join(reasons)}: {advice}")
