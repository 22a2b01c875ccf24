"""The start request on both sides of the lifeline, and which variables reach a command through sudo."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.process import StartError
from corral.process.bare import environment, lifeline
from corral.process.bare.ending import Ladder
from corral.process.bare.environment import Carried, Variables, carry_by_exec, carry_by_sudo
from corral.process.bare.request import Command, StartRequest

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=3)
SECONDS = st.floats(0, 1e6)

REQUESTS = st.builds(
    StartRequest,
    job_id=TEXTS,
    supervisor=st.tuples(st.integers(1, 2**22), st.integers(0, 2**62)),
    command=st.builds(
        Command,
        argv=st.lists(TEXTS, min_size=1, max_size=4).map(tuple),
        user=st.none() | TEXTS,
        variables=st.builds(Variables, own=MAPS, env=st.none() | MAPS, kept=st.none() | MAPS),
        cwd=st.none() | TEXTS,
        here=TEXTS,
        limits=st.dictionaries(TEXTS, st.integers(0, 2**63 - 1), max_size=2),
    ),
    ladder=st.builds(Ladder, grace=SECONDS, kill=SECONDS),
    tracker=TEXTS,
    mark=st.integers(0, 2**62),
    state_dir=TEXTS,
    report_file=st.none() | TEXTS,
    label=TEXTS,
)
REQUEST = StartRequest(
    job_id="one",
    supervisor=(2, 1),
    command=Command(("true",), None, Variables({}, {"TOKEN": "secret"}, None), None, "/"),
    ladder=Ladder(1, 2),
    tracker="auto",
    mark=0,
    state_dir="/state",
    report_file=None,
    label="",
)


@settings(max_examples=200)
@given(request=REQUESTS)
def test_a_request_is_the_same_on_the_other_side_of_the_lifeline(request: StartRequest) -> None:
    [message] = lifeline.Decoder().feed(lifeline.encode({"start": request.encode()}))
    assert isinstance(message, dict)
    assert StartRequest.decode(message["start"]) == request


def fields(message: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field of an encoded request."""
    found = []
    for name, value in message.items():
        found.append((*above, name))
        if isinstance(value, dict) and name in ("command", "variables", "ladder"):
            found += fields(value, (*above, name))
    return found


@pytest.mark.parametrize("path", fields(REQUEST.encode()), ids=".".join)
@pytest.mark.parametrize("damage", ["missing", "wrong", "unknown"])
def test_a_request_that_does_not_fit_is_refused_by_the_name_of_its_field(path: tuple[str, ...], damage: str) -> None:
    message = json.loads(json.dumps(REQUEST.encode()))
    holder = message
    for name in path[:-1]:
        holder = holder[name]
    where = ".".join(path)
    if damage == "missing":
        del holder[path[-1]]
    elif damage == "wrong":
        holder[path[-1]] = [["secret"]]
    else:
        holder["a_field_of_tomorrow"] = "secret"
        where = ".".join([*path[:-1], "a_field_of_tomorrow"])
    with pytest.raises(StartError) as refused:
        StartRequest.decode(message)
    assert refused.value.kind == "invalid"
    assert f"the start request's {where} does not fit" in str(refused.value)
    assert "secret" not in str(refused.value)


OWN = {"PATH": "/bin", "LANG": "C", "HOME": "/root", "DB_PASSWORD": "secret", "TMPDIR": "/own"}
BARE = {"PATH": "/bin", "LANG": "C"}


@pytest.mark.parametrize(
    ("env", "kept", "carried"),
    [
        pytest.param(None, None, Carried(BARE), id="of_the_services_own_only_what_sudo_needs"),
        pytest.param({}, {}, Carried(BARE), id="empty_ones_are_no_different"),
        pytest.param({"B": "2", "A": "1"}, None, Carried({**BARE, "B": "2", "A": "1"}, ("A", "B")), id="env_by_name"),
        pytest.param({"PATH": "/x"}, None, Carried({**BARE, "PATH": "/x"}, ("PATH",)), id="env_wins_over_the_bare"),
        pytest.param(None, {"K": "1"}, Carried({**BARE, "K": "1"}), id="kept_is_sudos_to_keep"),
        pytest.param({"K": "2"}, {"K": "1"}, Carried({**BARE, "K": "2"}, ("K",)), id="env_lies_above_kept"),
        pytest.param(None, {"LD_PRELOAD": "x", "DYLD_X": "y"}, Carried(BARE), id="nothing_that_the_loader_obeys"),
        pytest.param(None, {"TMPDIR": "/t"}, Carried(BARE, (), {"TMPDIR": "/t"}), id="tmpdir_is_an_argument"),
        pytest.param(
            {"TMPDIR": "/e"},
            {"TMPDIR": "/t"},
            Carried({**BARE, "TMPDIR": "/e"}, ("TMPDIR",)),
            id="the_value_of_env_is_never_an_argument",
        ),
    ],
)
def test_what_sudo_carries(env: dict[str, str] | None, kept: dict[str, str] | None, carried: Carried) -> None:
    given = environment.given(OWN, env, kept)
    found = carry_by_sudo(given)
    assert found == carried
    assert carry_by_sudo(given, assigns=False) == found._replace(assign={})
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("env", "kept", "exported"),
    [
        (None, None, OWN),
        ({}, None, {}),
        ({"A": "1"}, None, {"A": "1"}),
        (None, {"K": "1", "LD_PRELOAD": "x"}, {"K": "1", "LD_PRELOAD": "x"}),
        ({"K": "2"}, {"K": "1", "TMPDIR": "/t"}, {"K": "2", "TMPDIR": "/t"}),
    ],
)
def test_a_command_of_this_account_gets_what_was_given_or_everything(
    env: dict[str, str] | None, kept: dict[str, str] | None, exported: dict[str, str]
) -> None:
    assert carry_by_exec(environment.given(OWN, env, kept)) == Carried(exported)


def test_no_more_of_the_services_own_variables_is_sent_than_can_be_needed() -> None:
    assert environment.given(OWN, {}, None).own == BARE
    assert environment.given(OWN, None, {}).own == BARE
