"""Which people an identity may act for: decided in one place, and by default nobody."""

import os
import pwd
from pathlib import Path

import pytest

from corral.config import Config, Person
from corral.service.identity import Access, Account, Identity, TelegramUser, WebSession, own_account
from corral.service.service import AccessError
from tests.harness.hosting import Watcher, configured, hosting

GAMES, UUCP = (pwd.getpwnam(name).pw_uid for name in ("games", "uucp"))
PEOPLE = (
    Person(name="own", telegram=7),
    Person(name="games", os_user="games", telegram=42),
    Person(name="second", os_user="games"),
    Person(name="gone", os_user="no-such-account"),
)


def test_an_account_may_act_only_for_its_own_people() -> None:
    access = Access.look_up(Config(people=PEOPLE))
    everybody = ("own", "games", "second", "gone")
    assert access.people(Account(0)) == access.people(own_account()) == everybody
    assert access.people(Account(GAMES)) == ("games", "second")
    assert access.people(Account(54321)) == ()
    assert not access.allows(Account(GAMES), "own"), "an agent of the service's account is nobody else's"


def test_a_telegram_user_may_act_only_for_the_person_with_its_number() -> None:
    access = Access.look_up(Config(people=PEOPLE))
    assert access.people(TelegramUser(42)) == ("games",)
    assert access.people(TelegramUser(7)) == ("own",)
    assert access.people(TelegramUser(0)) == access.people(TelegramUser(GAMES)) == ()


@pytest.mark.parametrize("opened_by", [Account(GAMES), TelegramUser(42)])
def test_a_session_may_act_for_its_person_only_while_the_identity_that_opened_it_may(
    opened_by: Account | TelegramUser,
) -> None:
    session = WebSession("s1", "games", opened_by)
    assert Access.look_up(Config(people=PEOPLE)).people(session) == ("games",)
    without = Config(people=tuple(one for one in PEOPLE if one.name != "games"))
    assert Access.look_up(without).people(session) == ()
    moved = Config(people=(Person(name="games", os_user="uucp", telegram=43),))
    assert Access.look_up(moved).people(session) == ()
    assert Access.look_up(Config(people=PEOPLE)).people(WebSession("s2", "own", Account(GAMES))) == ()


def test_a_service_that_nobody_else_reaches_serves_its_own_account_alone() -> None:
    access = Access.own(Config(people=PEOPLE))
    assert access.allows(own_account(), "games")
    assert access.people(Account(GAMES)) == access.people(TelegramUser(42)) == ()


@pytest.mark.parametrize(
    "identity", [Account(54321), Account(UUCP), TelegramUser(43), WebSession("s", "anna", Account(1))]
)
async def test_no_seat_is_given_to_an_identity_that_is_not_in_the_table(identity: Identity, tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        host.service.admit(Access.look_up(config))
        with pytest.raises(AccessError):
            await host.service.seat(identity, "anna", Watcher())
        assert not host.service.seats
        assert not host.service.live


async def test_a_seat_is_taken_away_as_soon_as_its_identity_may_no_longer_act_for_its_person(tmp_path: Path) -> None:
    anna = Person(name="anna", telegram=42, workspace=str(tmp_path))
    config = configured(tmp_path).model_copy(update={"people": (anna,)})
    async with hosting(config) as host:
        host.service.admit(Access.look_up(config))
        phone, terminal = Watcher(), Watcher()
        seat = await host.service.seat(TelegramUser(42), "anna", phone)
        other = await host.service.seat(own_account(), "anna", terminal)
        changed = config.model_copy(update={"people": (anna.model_copy(update={"telegram": 43}),)})
        await host.service.reload(config, Access.look_up(config))
        assert not seat.over
        await host.service.reload(changed, Access.look_up(changed))
        assert seat.over
        await phone.until(lambda: phone.closed_with == "you may not act for anna any more", "it is told")
        assert not other.over
        assert host.service.seats == {other}


def test_an_identity_has_a_name_for_logs() -> None:
    session = WebSession("phone", "games", Account(1001))
    assert [str(one) for one in (Account(1001), TelegramUser(42), session)] == [
        "account 1001",
        "telegram 42",
        "web phone, opened by account 1001",
    ]
    assert os.getuid() == own_account().uid
