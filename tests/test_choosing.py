"""What a person chooses for a conversation: the folder and the model."""

from pathlib import Path

import pytest

from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.events import BackendStarted
from corral.config import Person
from corral.service.conversation_ref import ConversationRef
from corral.service.starting import configured_kind, workspaces
from corral.service.workspaces import Workspaces
from tests.harness.hosting import configured, hosting

MINE = Workspaces("/home/ann/work", {"site": "/srv/site"}, "/home/ann")


@pytest.mark.parametrize(
    ("argument", "folder"),
    [
        ("~/work/proj", "/home/ann/work/proj"),
        ("~/work", "/home/ann/work"),
        ("~//work/x/../y/", "/home/ann/work/y"),
        ("proj", "/home/ann/work/proj"),
        ("./~proj", "/home/ann/work/~proj"),
        ("a/~/b", "/home/ann/work/a/~/b"),
        ("~", "/home/ann/work"),
        ("site", "/srv/site"),
    ],
)
def test_a_folder_is_named_as_in_the_configuration_or_from_the_workspace(argument: str, folder: str) -> None:
    assert MINE.find(argument) == folder


@pytest.mark.parametrize("argument", ["~/proj", "~/..", "~/work/../..", "~bob/work", "~bob", "~~/x", "/etc"])
def test_a_folder_elsewhere_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"in none of your workspaces|is not a folder: write ~/FOLDER"):
        MINE.find(argument)


def test_the_home_of_a_person_s_account_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    places = workspaces(Person(name="ann", workspace="~/work"))
    assert places.find("~/work/x") == f"{places.home}/x"
    assert configured(tmp_path)


def test_an_agent_is_started_with_the_model_that_was_chosen(tmp_path: Path) -> None:
    settings = {"model": "old", "command": ["/opt/agent"]}
    config = configured(tmp_path, engines={"codex": settings, "claude": settings})
    person = config.people[0]
    for engine, kind in (("codex", Codex), ("claude", Claude)):
        for chosen, model in ((None, "old"), ("new", "new")):
            made = configured_kind(config, person, ConversationRef(person.name, engine, "", model=chosen))
            assert isinstance(made, kind)
            assert made.model == model


async def test_who_comes_later_is_told_the_model_that_was_chosen_meanwhile(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.say("talk")
        await anna.front.turns(1)
        anna.do("/model another")
        await anna.front.hears("from the next turn on: another")
        later = await host.seat(resume="last")
        [started] = later.front.of(BackendStarted)
        assert started.model == "another"
