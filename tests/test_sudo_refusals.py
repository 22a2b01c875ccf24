"""A sudo that refused, a sudo that gave no answer, and a command that ran: which it was is never guessed wrong."""

from collections.abc import Callable

import pytest

from tests.harness.service import Service
from tests.harness.stage import Account

SudoRules = Callable[..., object]
pytestmark = pytest.mark.cross_account

STARTS = """
import asyncio, sys
from corral.process import Job, StartError

async def one():
    try:
        async with await Job.start(["/bin/false"], user=sys.argv[2], state_dir=sys.argv[1]) as job:
            return str(await job.wait())
    except StartError as error:
        return f"{error.kind}: {error}"

async def main():
    seen = []
    for _ in range(10):
        seen += await asyncio.gather(*(one() for _ in range(5)))
    print(*sorted(set(seen)), len(seen), sep="|")

asyncio.run(main())
"""


@pytest.mark.parametrize("use_pty", [True, False], ids=["use_pty", "no_pty"])
@pytest.mark.parametrize(
    "defaults",
    [(), ("!pam_session", "!pam_setcred"), ("!pam_session",), ("listpw=always", "!pam_session", "!pam_setcred")],
    ids=lambda one: "+".join(one) or "none",
)
def test_a_command_that_fails_at_once_is_never_taken_for_a_refusal(
    defaults: tuple[str, ...], use_pty: bool, service: Service, person: Account, sudo_rules: SudoRules
) -> None:
    # Without the PAM session sudo does not stay: it becomes the command.
    sudo_rules(commands=("/bin/false",), use_pty=use_pty, defaults=defaults)
    done = service.run([service.python, "-c", STARTS, str(service.state_dir), person.name])
    assert done.stdout == "1|50\n", done.stderr
