"""The unit that `corral units` prints, under a real systemd: started, reloaded, stopped, killed, restarted."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.engines import Engine
from tests.harness.house import TIMEOUT, Chat, House, at_work, furnished
from tests.harness.nested_systemd import NestedSystemd, NoSystemdError, booted, why_not
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

# Not marked cross_account, of which none may be skipped: a machine may have no systemd to boot.
pytestmark = [pytest.mark.slow, pytest.mark.codex, pytest.mark.timeout(300)]


def unit_of(service: Service, config: Any) -> str:
    done = service.run(
        service.corral("units", "systemd", "--service-user", service.account.name, "--config", str(config))
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def drop_in(service: Service) -> str:
    """Where the modules of a clone are, and a log that can be read without a journal."""
    log = service.folder / "serve.log"
    return f'[Service]\nEnvironment="PYTHONPATH={service.env["PYTHONPATH"]}"\nStandardError=append:{log}\n'


WAYS: dict[str, Callable[[NestedSystemd], object]] = {
    "stop": lambda systemd: systemd.ctl("stop", "corral"),
    "restart": lambda systemd: systemd.ctl("restart", "corral"),
    "KILL of the service": lambda systemd: systemd.ctl("kill", "--kill-whom=main", "-s", "KILL", "corral"),
    "KILL of the whole cgroup": lambda systemd: systemd.ctl("kill", "--kill-whom=all", "-s", "KILL", "corral"),
    "stop of a stopped service": lambda systemd: (
        systemd.ctl("kill", "--kill-whom=main", "-s", "STOP", "corral"),
        systemd.ctl("stop", "corral"),
    ),
}


@pytest.mark.parametrize("installed_engine", ["codex"], indirect=True)
async def test_whatever_systemd_does_to_the_service_nothing_is_left(
    service: Service, person: Account, installed_engine: Engine, sudo_rules: Callable[..., Any]
) -> None:
    if lacking := service.stage.lacking or why_not():
        pytest.skip(lacking)
    async with furnished(service, person, installed_engine, sudo_rules) as house:
        units = {"corral.service": unit_of(service, house.config), "corral.service.d/clone.conf": drop_in(service)}
        try:
            with booted(service.folder, units) as systemd:
                for way in WAYS:
                    await ended(way, systemd, house)
        except NoSystemdError as error:
            pytest.skip(str(error))


async def ended(way: str, systemd: NestedSystemd, house: House) -> None:
    systemd.ctl("start", "corral")  # until it has said that it is ready
    systemd.ctl("reload", "corral")
    await until(
        lambda: systemd.show("corral", "StatusText") == "serving 1 person", TIMEOUT, "it was reloaded", house.log
    )
    chat: Chat = await at_work(house)
    WAYS[way](systemd)
    await house.nothing_is_left()
    assert house.service.wait_exit(chat.program) == 1, f"{way}: the chat says that the service is gone"
