"""A job under another account starts only in a folder that this account may enter, whatever links lead there."""

import os
import pwd
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.backends.attachments import read_input
from corral.backends.backend import Input
from corral.backends.errors import InputError
from corral.process.bare import folders
from tests.harness.driving import Driver, DriverError
from tests.harness.service import Service
from tests.harness.stage import Account, Stage

pytestmark = pytest.mark.cross_account

USER, GROUP_OBJ, GROUP, MASK, OTHER, USER_OBJ = 2, 4, 8, 16, 32, 1


def access_list(folder: Path, *entries: tuple[int, int, int]) -> None:
    """Set a POSIX access list: (tag, rights, id) each, in the order that the kernel asks for."""
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, "system.posix_acl_access", value)


def belongs(path: Path, owner: Account, mode: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)
    return path


def where(driver: Driver, person: Account, folder: Path) -> str:
    """The folder that a job of the person's is in when it is asked to start in `folder`."""
    out = driver.service.folder / "where"
    out.unlink(missing_ok=True)
    program = f"import os; open({str(out)!r}, 'w').write(os.getcwd())"
    driver.start_job([driver.service.python, "-I", "-c", program], person.name, cwd=str(folder))
    assert driver.ask("wait") == 0
    driver.end()
    return out.read_text()


@pytest.fixture
def closed(driver: Driver, stage: Stage) -> Path:
    """A folder that the service may enter, and everybody else only by a way that begins in it."""
    folder = belongs(driver.service.folder / "closed", stage.service, 0o700)
    return belongs(folder / "open", stage.service, 0o755)


@pytest.mark.parametrize("target", ["{closed}", "{closed}/../open", "/proc/self/root{closed}", "../closed/open"])
def test_a_link_leads_into_no_folder_whose_parents_are_closed_to_the_account(
    target: str, driver: Driver, person: Account, closed: Path
) -> None:
    home = belongs(driver.service.folder / "home", person, 0o755)
    (home / "evil").symlink_to(target.format(closed=closed))
    with pytest.raises(DriverError, match=f"{person.name} may not enter {closed.parent}") as error:
        where(driver, person, home / "evil")
    assert error.value.kind == "cwd"


def test_a_link_to_another_persons_home_that_the_service_may_enter_by_its_group(
    driver: Driver, person: Account, stage: Stage
) -> None:
    theirs = belongs(driver.service.folder / "theirs", stage.second_person, 0o750)
    os.chown(theirs, stage.second_person.uid, stage.service.gid)
    belongs(theirs / "work", stage.second_person, 0o755)
    home = belongs(driver.service.folder / "home", person, 0o755)
    (home / "evil").symlink_to(theirs / "work")
    with pytest.raises(DriverError, match=f"{person.name} may not enter {theirs}"):
        where(driver, person, home / "evil")


def test_a_link_to_a_folder_of_ones_own_is_followed(driver: Driver, person: Account) -> None:
    work = belongs(driver.service.folder / "home" / "work", person, 0o755)
    (work.parent / "first").symlink_to("work")
    (work.parent / "second").symlink_to(work.parent / "first")
    assert where(driver, person, work.parent / "second" / "..") == str(work.parent)
    assert where(driver, person, work.parent / "second") == str(work)


@pytest.mark.slow
def test_a_link_that_is_swapped_all_the_time_leads_to_no_closed_folder(
    driver: Driver, person: Account, closed: Path, stage: Stage
) -> None:
    home = belongs(driver.service.folder / "home", person, 0o755)
    work = belongs(home / "work", person, 0o755)
    swapping = (
        "import os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "while True:\n"
        "  for target in sys.argv[2:]:\n"
        "    os.symlink(target, 'next'); os.replace('next', 'evil')\n"
    )
    (home / "evil").symlink_to(work)
    swapper = driver.service.start([stage.python, "-c", swapping, str(home), str(closed), str(work)], account=person)
    outcomes = set()
    try:
        for _ in range(12):
            try:
                outcomes.add(where(driver, person, home / "evil"))
            except DriverError as error:
                outcomes.add(str(error))
    finally:
        swapper.kill()
        swapper.wait()
    refusal = f"{person.name} may not enter {closed.parent}: give it the right to, or choose another folder than"
    assert outcomes <= {str(work), f"{refusal} {home}/evil"}


def test_a_link_that_another_account_laid_in_a_folder_for_everybody_is_not_followed(
    driver: Driver, person: Account, stage: Stage
) -> None:
    shared = belongs(driver.service.folder / "shared", stage.service, 0o777 | 0o1000)
    work = belongs(driver.service.folder / "work", person, 0o755)
    (shared / "work").symlink_to(work)
    os.lchown(shared / "work", stage.second_person.uid, stage.second_person.gid)
    with pytest.raises(DriverError, match=f"{person.name} may not enter {shared}/work"):
        where(driver, person, shared / "work")
    os.lchown(shared / "work", person.uid, person.gid)
    assert where(driver, person, shared / "work") == str(work)


def test_an_access_list_decides_where_there_is_one(driver: Driver, person: Account, stage: Stage) -> None:
    home = belongs(driver.service.folder / "home", stage.service, 0o700)
    work = belongs(home / "work", person, 0o700)
    access_list(work, (USER_OBJ, 7, 0), (USER, 1, stage.service.uid), (GROUP_OBJ, 0, 0), (MASK, 7, 0), (OTHER, 0, 0))
    with pytest.raises(DriverError, match=f"{person.name} may not enter {home}"):
        where(driver, person, work)
    access_list(home, (USER_OBJ, 7, 0), (USER, 1, person.uid), (GROUP_OBJ, 0, 0), (MASK, 7, 0), (OTHER, 0, 0))
    assert where(driver, person, work) == str(work)
    access_list(home, (USER_OBJ, 7, 0), (USER, 0, person.uid), (GROUP_OBJ, 7, 0), (MASK, 7, 0), (OTHER, 7, 0))
    with pytest.raises(DriverError, match=f"{person.name} may not enter {home}"):
        where(driver, person, work)


@pytest.mark.slow
def test_the_folder_of_the_caller_is_left_where_the_account_may_not_go(
    driver: Driver, person: Account, closed: Path, stage: Stage
) -> None:
    (driver.service.folder / "door").symlink_to(closed)
    shown = driver.service.folder / "shown"
    program = f"import os; open({str(shown)!r}, 'w').write(os.getcwd())"
    run = driver.service.corral("run", "--user", person.name, "--", stage.python, "-I", "-c", program)
    for folder, ends_in in ((driver.service.folder / "door", "/"), (driver.service.folder, str(driver.service.folder))):
        shown.unlink(missing_ok=True)
        started = driver.service.start(run, cwd=folder)
        _, said = started.communicate(timeout=30)
        assert started.returncode == 0, said
        assert shown.read_text() == ends_in


def test_it_judges_as_the_kernel_does(stage: Stage) -> None:
    """Random folders, links and access lists; the kernel's word comes from a process of the account's.

    Sticky folders are left out: whether links in them are protected is the host's setting.
    """
    random_ = random.Random(7)
    accounts = list(stage.accounts.values())
    root = stage.test_folder("judge")
    ids = [*(one.uid for one in accounts), 0]
    below = [root]
    for number in range(60):
        folder = random_.choice(below) / f"d{number}"
        folder.mkdir()
        os.chown(folder, random_.choice(ids), random_.choice([one.gid for one in accounts]))
        folder.chmod(random_.choice([0o700, 0o710, 0o701, 0o711, 0o755, 0o077, 0o707, 0o770, 0o750]))
        if random_.random() < 0.4:
            named = sorted({random_.choice(accounts).uid for _ in range(2)})
            groups = sorted({random_.choice(accounts).gid for _ in range(2)})
            access_list(
                folder,
                (USER_OBJ, random_.choice([7, 6]), 0),
                *((USER, random_.choice([0, 1, 7]), uid) for uid in named),
                (GROUP_OBJ, random_.choice([0, 1]), 0),
                *((GROUP, random_.choice([0, 1]), gid) for gid in groups),
                (MASK, random_.choice([0, 1, 7]), 0),
                (OTHER, random_.choice([0, 1]), 0),
            )
        below.append(folder)
        link = random_.choice(below) / f"l{number}"
        target = random_.choice(below)
        link.symlink_to(random_.choice([target, os.path.relpath(target, link.parent), "..", f"l{number}", "nothing"]))
        owner = random_.choice(accounts)
        os.lchown(link, owner.uid, owner.gid)
    paths = sorted(str(path) for path in root.rglob("*"))
    ask = (
        "import os, sys\n"
        "for path in sys.stdin.read().splitlines():\n"
        "  try: os.chdir(path); print(os.stat('.').st_ino)\n"
        "  except OSError as error: print(error.strerror)\n"
    )
    for account in accounts:
        entry = pwd.getpwnam(account.name)
        groups = os.getgrouplist(account.name, account.gid)
        told = subprocess.run(
            [stage.python, "-I", "-c", ask],
            input="\n".join(paths),
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda entry=entry, groups=groups: _become(entry, groups),
        ).stdout.splitlines()
        mine = [_judged(path, entry) for path in paths]
        assert dict(zip(paths, mine, strict=True)) == dict(zip(paths, told, strict=True)), account.name
        assert {"Permission denied"} < set(told), "the folders are too simple to tell anything"


def _judged(path: str, entry: pwd.struct_passwd) -> str:
    try:
        folder = folders.open_folder(path, entry)
    except folders.ClosedError:
        return "Permission denied"
    except OSError as error:
        return str(error.strerror)
    try:
        return str(os.fstat(folder).st_ino)
    finally:
        os.close(folder)


def _become(entry: pwd.struct_passwd, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def test_where_only_the_person_may_look_sudo_enters_as_the_person(
    driver: Driver, person: Account, closed: Path, sudo_rules: Callable[..., object]
) -> None:
    home = belongs(driver.service.folder / "home", person, 0o700)
    (home / "evil").symlink_to(closed)
    sudo_rules(command_tags="CWD=* NOPASSWD:")
    assert where(driver, person, home) == str(home)
    driver.start_job([driver.service.python, "-I", "-c", "open('here', 'w')"], person.name, cwd=str(home / "evil"))
    assert driver.ask("wait") == 1, "sudo says that it cannot change the folder, and starts nothing"


async def test_a_picture_is_read_for_an_account_only_if_it_may_read_it(
    person: Account, stage: Stage, service: Service
) -> None:
    home = belongs(service.folder / "home", person, 0o755)
    closed = belongs(service.folder / "closed", stage.second_person, 0o700)
    for folder, mode in ((home, 0o600), (closed, 0o644)):
        picture = folder / "picture.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n")
        os.chown(picture, person.uid if folder is home else stage.second_person.uid, -1)
        picture.chmod(mode)
    (home / "own.png").symlink_to("picture.png")
    (home / "evil.png").symlink_to(closed / "picture.png")
    (home / "secret.png").symlink_to("/etc/shadow")
    os.mkfifo(home / "pipe.png")
    for name in ("picture.png", "own.png"):
        assert (await read_input(Input("look", images=(home / name,)), person.name)).images
    for name in ("evil.png", "secret.png"):
        with pytest.raises(InputError, match=f"cannot be read by {person.name}"):
            await read_input(Input("look", images=(home / name,)), person.name)
    with pytest.raises(InputError, match="not a regular file"):
        await read_input(Input("look", images=(home / "pipe.png",)), person.name)
