"""The stage of the tests, and the fixtures that put a test on it. tests/harness/stage.py explains the stage."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness import engines, sudoers
from tests.harness.driving import Driver
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.stage import Account, Stage, raise_stage, why_not
from tests.harness.trees import Planted, Tree, plant
from tests.harness.truth import Truth

REQUIRED = os.environ.get("CORRAL_REQUIRE_CROSS_ACCOUNT") == "1"
# Without a version npm gives an older one where Node is older than 22, which the native binary does not need.
CLAUDE_VERSION = "2.1.330"
STAGE = pytest.StashKey[Stage]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Raise the stage first of all: a mount namespace is entered while the process still has one thread."""
    # A run under nohup ignores HUP, one in the background of a script INT; and so would everything that it starts.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not session.config.option.collectonly and not _only_distributes(session.config):
        session.config.stash[STAGE] = raise_stage()


def _only_distributes(config: pytest.Config) -> bool:
    """Whether this process hands the tests to workers (pytest-xdist) and runs none itself."""
    return config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")


def pytest_report_header(config: pytest.Config) -> str:
    if _only_distributes(config):
        return f"across accounts: {why_not() or 'yes, each worker on a stage of its own'}"
    stage = config.stash.get(STAGE, None)
    return f"across accounts: {'no' if stage is None else stage.lacking or f'yes, on {stage.root}'}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if (stage := config.stash.get(STAGE, None)) is not None:
        stage.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the JUnit file tell which tests go across accounts, for tools/cross_account_ran.py."""
    for item in items:
        if item.get_closest_marker("cross_account"):
            item.user_properties.append(("cross_account", "yes"))


@pytest.fixture(scope="session")
def stage(pytestconfig: pytest.Config) -> Stage:
    """The stage: accounts, interpreter, search path, and what may be read by every account."""
    return pytestconfig.stash[STAGE]


@pytest.fixture(autouse=True)
def _may_cross(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    lacking = pytestconfig.stash[STAGE].lacking
    if lacking and request.node.get_closest_marker("cross_account"):
        if REQUIRED:
            pytest.fail(f"CORRAL_REQUIRE_CROSS_ACCOUNT=1, but {lacking}", pytrace=False)
        pytest.skip(f"cross-account: {lacking}")


@pytest.fixture
def service(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Service]:
    """Starts programs as the service account. Whatever the test leaves is ended after it, by pid and start time."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    folder = stage.test_folder(name)
    state_dir = folder / "state"
    state_dir.mkdir(mode=0o700)
    if not stage.lacking:
        os.chown(state_dir, stage.service.uid, stage.service.gid)
    service = Service(stage, folder, state_dir, Truth(folder.name, stage.uids))
    yield service
    try:
        service.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def state_dir(service: Service) -> Path:
    """The test's state folder, 0700 and the service account's."""
    return service.state_dir


@pytest.fixture
def person(stage: Stage) -> Account:
    """Another account, for tests marked cross_account."""
    return stage.person


@dataclass(frozen=True)
class Route:
    """How a job reaches its account: `user` is what Job.start is given."""

    name: str
    user: str | None


OWN = pytest.param("own", id="own_account")
ACROSS = pytest.param("across", id="across_sudo", marks=pytest.mark.cross_account)


@pytest.fixture(params=[OWN, ACROSS])
def account(request: pytest.FixtureRequest, stage: Stage) -> Route:
    """Runs the test twice: the job's command as the service account itself, and as the person through sudo."""
    return Route(request.param, stage.person.name if request.param == "across" else None)


@pytest.fixture
def sudo_rules(stage: Stage) -> Iterator[Callable[..., sudoers.Rules]]:
    """Changes the sudo rules for this test: sudo_rules(kill_tags=None), sudo_rules(use_pty=False), …"""

    def change(**changes: Any) -> sudoers.Rules:
        rules = replace(stage.rules(), **changes)
        assert stage.sudoers_file is not None, "a test that changes the sudo rules must be marked cross_account"
        sudoers.write(rules, stage.sudoers_file)
        return rules

    yield change
    if stage.sudoers_file is not None:
        sudoers.write(stage.rules(), stage.sudoers_file)


@pytest.fixture
def driver(service: Service) -> Driver:
    """A supervisor under the service account, steered by the test."""
    return Driver.start(service)


@pytest.fixture
def planted(service: Service) -> Callable[[Tree], Planted]:
    """Makes the command and the status file of a hostile tree."""

    def make(tree: Tree) -> Planted:
        program = service.stage.harness / "hostile.py"
        person = None if service.stage.lacking else service.stage.person.name
        return plant(tree, service.folder, service.python, program, person)

    return make


@pytest.fixture(scope="session")
def codex_command(stage: Stage) -> list[str]:
    """The real codex, readable by every account and allowed by sudo."""
    return [_engine(stage, "codex", engines.find("codex")).program]


@pytest.fixture(scope="session")
def claude_command(stage: Stage) -> list[str]:
    """The real claude, readable by every account and allowed by sudo."""
    return [_engine(stage, "claude", engines.find("claude")).program]


CODEX = pytest.param("codex", marks=pytest.mark.codex)
CODEX_WHEEL = pytest.param("codex-wheel", marks=pytest.mark.codex)
CODEX_OLDEST = pytest.param("codex-oldest", marks=pytest.mark.codex)
CLAUDE = pytest.param("claude", marks=pytest.mark.claude)


@pytest.fixture(scope="session", params=[CODEX, CODEX_WHEEL, CODEX_OLDEST, CLAUDE])
def engine(request: pytest.FixtureRequest, stage: Stage) -> Engine:
    """Each real engine: codex from npm (below its node wrapper), from the wheel (without), the oldest, and claude."""
    if request.param == "claude":
        return _engine(stage, "claude", engines.find("claude"))
    if request.param == "codex-wheel":
        return _engine(stage, "codex", engines.find_codex_wheel())
    if request.param == "codex-oldest":
        return _engine(stage, "codex", engines.find_codex_oldest(), engines.OLDEST_CODEX)
    return _engine(stage, "codex", engines.find("codex"))


@pytest.fixture(scope="session", params=[CODEX, CLAUDE])
def installed_engine(request: pytest.FixtureRequest, stage: Stage) -> Engine:
    """The engines as people have them: codex below its node wrapper, and claude."""
    return _engine(stage, request.param, engines.find(request.param))


def _engine(stage: Stage, name: str, found: str | None, package: str = "") -> Engine:
    if not found:
        package = package or engines.PACKAGES[name]
        pytest.skip(f"{name}: not found; set CORRAL_TEST_{name.upper()}=/path/to/{name}, or: npm install {package}")
    program = engines.expose(found, stage.expose)
    stage.allow(program)
    return Engine(name, program, "npm" if "node_modules" in found else "wheel")
