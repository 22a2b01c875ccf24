"""Files handed over as the person's account: whole or not at all, only inside the workspace, and nothing runs on."""

import asyncio
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corral.config import Person
from corral.install.sudoers import escaped
from corral.process import live_jobs
from corral.service import files, files_as_account
from corral.service.files import MOST_NAME, MOST_OF_PERSON, Files, FilesError, Place, safe_name
from corral.service.files_as_account import PIECE, RefusedError
from corral.service.identity import Access
from tests.harness.hosting import SOON, configured, hosting
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until, wait_until

DRIVER = "file_driver.py"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


async def endless() -> AsyncIterator[bytes]:
    yield b"x" * 1000
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A workspace of this account, for which nothing may run at the end."""
    (tmp_path / "work").mkdir()
    place = Place("anna", None, str(tmp_path / "work"), tmp_path / "state")
    yield place
    assert not live_jobs(place.state_dir)


def inbox(place: Place) -> Path:
    return Path(place.workspace) / ".corral" / "inbox"


def held(place: Place) -> list[str]:
    """All names in the inbox, hidden ones included."""
    return names(inbox(place)) if inbox(place).exists() else []


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


async def fetched(place: Place, path: str, **more: Any) -> bytes:
    async with Files().get(place, path, owner=None, **more) as file:
        data = b"".join([piece async for piece in file.pieces])
        assert len(data) == file.size
        return data


class TestPut:
    async def test_a_file_is_the_accounts_own_and_closed_to_others(self, place: Place) -> None:
        path = await Files().put(place, "photo.jpg", pieces(b"one", b"", b"x" * 200_000), owner=None)
        assert path == str(inbox(place) / "photo.jpg")
        assert Path(path).read_bytes() == b"one" + b"x" * 200_000
        about = Path(path).stat()
        assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (os.getuid(), 0o600)
        assert stat.S_IMODE(inbox(place).stat().st_mode) == 0o700

    def test_git_does_not_see_it(self, place: Place) -> None:
        def git(*words: str) -> str:
            done = subprocess.run(["git", *words], cwd=place.workspace, check=True, capture_output=True, text=True)
            return done.stdout

        git("init", "-q")
        asyncio.run(Files().put(place, "photo.jpg", pieces(b"x"), owner=None))
        assert git("status", "--porcelain") == ""

    async def test_a_name_that_is_taken_gets_a_number_also_for_several_at_once(self, place: Place) -> None:
        shared = Files()
        paths = await asyncio.gather(
            *(shared.put(place, "a.tar.gz", pieces(str(number).encode()), owner=None) for number in range(4))
        )
        assert sorted(Path(path).name for path in paths) == ["a.tar-2.gz", "a.tar-3.gz", "a.tar-4.gz", "a.tar.gz"]
        assert {Path(path).read_text() for path in paths} == {"0", "1", "2", "3"}

    async def test_an_empty_file_is_a_file(self, place: Place) -> None:
        assert Path(await Files().put(place, "empty", pieces(), owner=None)).read_bytes() == b""

    async def test_what_is_too_large_is_refused_and_leaves_nothing(self, place: Place) -> None:
        with pytest.raises(FilesError, match="larger than 1,000 bytes"):
            await Files().put(place, "big", pieces(b"x" * 600, b"x" * 600), owner=None, most=1000)
        assert held(place) == []
        await Files().put(place, "fits", pieces(b"x" * 1000), owner=None, most=1000)
        assert held(place) == ["fits"]

    async def test_a_source_that_fails_leaves_nothing(self, place: Place) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            raise ConnectionResetError("the sender went")

        with pytest.raises(ConnectionResetError):
            await Files().put(place, "half", broken(), owner=None)
        assert held(place) == []

    async def test_a_caller_that_is_cancelled_leaves_nothing(self, place: Place) -> None:
        putting = asyncio.create_task(Files().put(place, "half", endless(), owner=None))
        await until(lambda: inbox(place).exists(), SOON, "it is being written")
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert held(place) == []

    async def test_one_that_takes_too_long_is_given_up(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "TIMEOUT", 1.0)
        with pytest.raises(FilesError, match="not handed over within 1 s"):
            await Files().put(place, "slow", endless(), owner=None)
        assert held(place) == []

    async def test_a_source_that_stalls_is_given_up(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "STALL_TIMEOUT", 2.0)
        async with asyncio.timeout(SOON):
            with pytest.raises(FilesError, match="nothing came of slow for 2 s"):
                await Files().put(place, "slow", endless(), owner=None)
        assert held(place) == []

    async def test_its_folder_is_never_behind_a_link(self, place: Place, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for link in (inbox(place).parent, inbox(place)):
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(elsewhere)
            with pytest.raises(FilesError, match="is a link or no folder: remove it"):
                await Files().put(place, "a", pieces(b"x"), owner=None)
            link.unlink()
        assert names(elsewhere) == []

    async def test_a_link_with_its_name_is_not_followed(self, place: Place, tmp_path: Path) -> None:
        inbox(place).mkdir(parents=True)
        (inbox(place) / "a").symlink_to(tmp_path / "target")
        assert (await Files().put(place, "a", pieces(b"x"), owner=None)).endswith("/a-2")
        assert not (tmp_path / "target").exists()

    async def test_a_workspace_that_is_not_there_is_said(self, place: Place) -> None:
        Path(place.workspace).rmdir()
        with pytest.raises(FilesError, match=r"the workspace .*/work cannot be entered: No such file or directory"):
            await Files().put(place, "a", pieces(b"x"), owner=None)

    async def test_a_full_disk_is_said_while_more_is_sent(self, place: Place) -> None:
        """The account may write 100 kB a file: the kernel refuses the rest, as a full disk does."""
        limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        limited += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        limited += f"import runpy; runpy.run_path({files.command()[-1]!r}, run_name='__main__')"
        files_command, files.command = files.command, lambda: [*files_command()[:-1], "-c", limited]
        try:
            with pytest.raises(FilesError, match="File too large"):
                await Files().put(place, "big", pieces(*[b"x" * 100_000] * 50), owner=None)
        finally:
            files.command = files_command
        assert held(place) == []

    @pytest.mark.parametrize("unnamed", [True, False])
    def test_with_and_without_unnamed_files(self, unnamed: bool, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        if not unnamed:
            monkeypatch.setattr(files_as_account, "_UNNAMED", 0)
        workspace = os.open(place.workspace, os.O_RDONLY)
        try:
            for number in range(3):
                whole = io.BytesIO(PIECE.pack(3) + b"abc" + PIECE.pack(0))
                path = files_as_account.put(workspace, {"name": "a.txt", "most": 10}, whole)
                assert path == f".corral/inbox/a{f'-{number + 1}' if number else ''}.txt"
            for cut in (b"", b"\0", PIECE.pack(3) + b"ab", PIECE.pack(3) + b"abc"):
                with pytest.raises(RefusedError, match="cut off"):
                    files_as_account.put(workspace, {"name": "cut", "most": 10}, io.BytesIO(cut))
            for name in ("", ".", "..", ".hidden", "a/b", "/etc/passwd", "a\0b"):
                with pytest.raises(RefusedError, match="is not the name of a file"):
                    files_as_account.put(workspace, {"name": name, "most": 10}, io.BytesIO())
        finally:
            os.close(workspace)
        assert held(place) == ["a-2.txt", "a-3.txt", "a.txt"]
        assert all((inbox(place) / name).read_bytes() == b"abc" for name in held(place))
        assert {stat.S_IMODE((inbox(place) / name).stat().st_mode) for name in held(place)} == {0o600}


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", "file"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("--config=x", "config=x"),
        ("~root", "root"),
        ("a\nb\tc\x1b[31m.txt", "abc.txt"),
        ("harmless\u202egnp.exe", "harmlessgnp.exe"),
        ("two  words.txt", "two words.txt"),
        ("ends with dots...", "ends with dots"),
        ("Cafe\u0301.txt", "Caf\u00e9.txt"),
        ("half \ud83d letter", "half \ufffd letter"),
        ("ü" * 300 + ".pdf", "ü" * 98 + ".pdf"),
        ("a." + "b" * 300, "a." + "b" * 198),
    ],
)
def test_a_name_is_made_safe(given_name: str, safe: str) -> None:
    assert safe_name(given_name) == safe


@given(st.text())
@example("a/.-")
@example("x" * 199 + "é.é" + "y" * 60)
@example(". . .")
def test_a_safe_name_is_a_name_whatever_was_given(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert safe not in (".", "..")
    assert not safe.startswith((".", "-", "~", " "))
    assert not re.search(r"[/\\\0]", safe)
    assert all(unicodedata.category(one)[0] != "C" for one in safe)
    assert len(safe.encode()) <= MOST_NAME
    assert safe == unicodedata.normalize("NFC", safe) == safe_name(safe)


class TestGet:
    async def test_a_file_comes_whole_by_each_of_its_paths(self, place: Place, tmp_path: Path) -> None:
        data = os.urandom(3_000_000)
        folder = Path(place.workspace) / "out" / "deep"
        folder.mkdir(parents=True)
        (folder / "report.bin").write_bytes(data)
        for path in ("out/deep/report.bin", "./out//deep/./report.bin", f"{folder}/report.bin"):
            assert await fetched(place, path) == data
        (tmp_path / "link").symlink_to(place.workspace)
        linked = Place("anna", None, str(tmp_path / "link"), place.state_dir)
        assert await fetched(linked, f"{folder}/report.bin") == data, "by the real name of the workspace"
        assert await fetched(linked, f"{tmp_path}/link/out/deep/report.bin") == data

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("../secret", "is not the path of a file in the workspace"),
            ("out/../../secret", "is not the path of a file in the workspace"),
            ("", "is not the path of a file in the workspace"),
            (".", "is not the path of a file in the workspace"),
            ("a\0b", "is not the path of a file in the workspace"),
            ("/etc/passwd", "/etc/passwd is not in the workspace"),
            ("{workspace}-2/secret", "is not in the workspace"),
            ("{workspace}/../secret", "is not the path of a file in the workspace"),
            ("link", "link is a symbolic link, which is not followed: name the file itself"),
            ("inside", "inside is a symbolic link"),
            ("folder/secret", "folder is a symbolic link, which is not followed, or not a folder"),
            ("file/x", "file is a symbolic link, which is not followed, or not a folder"),
            ("nothing", "nothing does not exist in the workspace"),
            ("out", "out is not a regular file"),
            ("pipe", "pipe is not a regular file"),
            ("socket", "socket is not a regular file"),
            ("big", "big has 2,000 bytes, and at most 1,000 are handed over"),
        ],
    )
    def test_what_is_not_a_small_regular_file_inside_is_refused_with_the_reason(
        self, path: str, why: str, place: Place, tmp_path: Path
    ) -> None:
        work = Path(place.workspace)
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "work-2").mkdir()
        (tmp_path / "work-2" / "secret").write_text("secret")
        (work / "out").mkdir()
        (work / "file").write_text("fine")
        (work / "big").write_text("x" * 2000)
        (work / "link").symlink_to("../secret")
        (work / "inside").symlink_to("file")
        (work / "folder").symlink_to("..")
        os.mkfifo(work / "pipe")
        os.mknod(work / "socket", stat.S_IFSOCK | 0o600)
        descriptor = os.open(work, os.O_RDONLY)
        request = {"workspace": place.workspace, "path": path.format(workspace=place.workspace), "most": 1000}
        try:
            with pytest.raises(RefusedError) as refused:
                files_as_account.get(descriptor, request)
        finally:
            os.close(descriptor)
        assert why in str(refused.value)

    async def test_a_path_that_no_kernel_takes_is_refused(self, place: Place) -> None:
        for path, why in (("x/" * 4000, "a path has at most 4,096 bytes"), ("x" * 4000, "File name too long")):
            with pytest.raises(FilesError, match=why):
                await fetched(place, path)

    async def test_a_refusal_is_told_to_the_caller(self, place: Place, tmp_path: Path) -> None:
        (Path(place.workspace) / "link").symlink_to("/etc/passwd")
        with pytest.raises(FilesError, match="link is a symbolic link, which is not followed: name the file itself"):
            await fetched(place, "link")

    async def test_a_folder_that_turns_into_a_link_meanwhile_leads_nowhere(self, place: Place, tmp_path: Path) -> None:
        work = Path(place.workspace)
        for folder, text in ((work / "real", "fine"), (tmp_path / "outside", "secret")):
            folder.mkdir()
            (folder / "file").write_text(text)
        (work / "evil").symlink_to(tmp_path / "outside")
        over = threading.Event()

        def swap() -> None:
            while not over.is_set():
                for target in ("real", "evil"):
                    (work / target).rename(work / "name")
                    (work / "name").rename(work / target)

        swapping = threading.Thread(target=swap)
        swapping.start()
        came: list[str] = []
        descriptor = os.open(work, os.O_RDONLY)
        try:
            deadline = time.monotonic() + SOON
            while len(came) < 3000 or (not {"fine", "link"} <= set(came) and time.monotonic() < deadline):
                request = {"workspace": place.workspace, "path": "name/file", "most": 100}
                try:
                    _, size, opened = files_as_account.get(descriptor, request)
                except RefusedError as error:
                    came.append("link" if "symbolic link" in str(error) else "nothing")
                    continue
                came.append(os.read(opened, size).decode())
                os.close(opened)
        finally:
            over.set()
            swapping.join()
            os.close(descriptor)
        assert "secret" not in came
        assert {"fine", "link"} <= set(came), "both were there to be found"

    @pytest.mark.parametrize(("new_size", "complete"), [(6_000_000, True), (10, False)])
    async def test_of_a_file_that_changes_meanwhile_comes_what_it_had_or_it_is_cut(
        self, new_size: int, complete: bool, place: Place
    ) -> None:
        file = Path(place.workspace) / "log"
        file.write_bytes(b"x" * 5_000_000)
        async with Files().get(place, "log", owner=None) as opened:
            first = await anext(opened.pieces)
            os.truncate(file, new_size)
            if complete:
                assert len(first) + sum([len(one) async for one in opened.pieces]) == 5_000_000
            else:
                with pytest.raises(FilesError, match="cut off"):
                    _ = [one async for one in opened.pieces]

    async def test_a_reader_that_goes_away_leaves_nothing_running(self, place: Place) -> None:
        (Path(place.workspace) / "big").write_bytes(b"x" * 5_000_000)
        async with Files().get(place, "big", owner=None) as file:
            await anext(file.pieces)
            assert live_jobs(place.state_dir)
        assert not live_jobs(place.state_dir)

    async def test_a_timeout_of_the_callers_own_is_its_own(self, place: Place) -> None:
        (Path(place.workspace) / "a").write_bytes(b"x")
        with pytest.raises(TimeoutError, match="mine"):
            async with Files().get(place, "a", owner=None):
                raise TimeoutError("mine")


NO_ANSWERS = [
    "no JSON",
    "[" * 60_000,
    "x" * 200_000,
    "7",
    "[]",
    "{}",
    '{"path": 7, "name": 7, "size": 7}',
    '{"path": "/etc/passwd", "name": "", "size": 1}',
    '{"path": ".corral/inbox/../../x", "name": "a", "size": -1}',
    '{"path": ".corral/inbox/a\\nb", "name": "a", "size": true}',
    '{"path": ".corral/inbox/a\\u202eb", "name": "a", "size": 1000000000000000000000}',
    '{"path": ".corral/inbox/a\\ud800", "name": "a\\ud800", "size": 1}',
]


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
async def test_an_answer_that_another_program_of_the_account_wrote_is_refused(
    answer: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever runs as the account can open the helper's pipes in /proc.
    (tmp_path / "answer").write_text(answer)
    helper = "import sys; sys.stdin.buffer.readline(); print(open(sys.argv[1]).read(), flush=True); sys.stdin.read()"
    monkeypatch.setattr(files, "command", lambda: [sys.executable, "-c", helper, str(tmp_path / "answer")])
    with pytest.raises(FilesError, match="makes no sense"):
        await Files().put(place, "a", pieces(b"x"), owner=None)
    with pytest.raises(FilesError, match="makes no sense"):
        async with Files().get(place, "a", owner=None):
            pass


async def test_a_person_has_only_so_many_at_once_and_others_do_not_wait(place: Place, tmp_path: Path) -> None:
    shared = Files()
    running = [asyncio.create_task(shared.put(place, "a", endless(), owner=place)) for _ in range(MOST_OF_PERSON)]
    await until(lambda: len(live_jobs(place.state_dir)) == MOST_OF_PERSON, SOON, "they run")
    with pytest.raises(FilesError, match="4 files of yours are on their way"):
        await shared.put(place, "b", pieces(b"x"), owner=place)
    other = Place("ben", None, place.workspace, place.state_dir)
    await shared.put(other, "c", pieces(b"x"), owner=None)
    shared.stop(place)
    ended = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), SOON)
    assert [str(one) for one in ended] == ["the transfer was cut off"] * MOST_OF_PERSON
    assert held(place) == ["c"]
    await shared.put(place, "b", pieces(b"x"), owner=place)


class TestSeat:
    async def test_files_go_both_ways_in_the_folder_of_the_conversation(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            path = await anna.seat.put_file("notes.txt", pieces(b"words"))
            assert path == f"{tmp_path}/work/.corral/inbox/notes.txt"
            async with anna.seat.get_file(path) as file:
                assert (file.name, file.size, [one async for one in file.pieces]) == ("notes.txt", 5, [b"words"])

    @pytest.mark.parametrize("how", ["detach", "reload", "shutdown"])
    async def test_a_seat_that_closes_ends_its_transfers_and_begins_none(self, how: str, tmp_path: Path) -> None:
        config = configured(tmp_path)
        async with hosting(config) as host:
            anna = await host.seat()
            putting = asyncio.create_task(anna.seat.put_file("a", endless()))
            await until((tmp_path / "work" / ".corral" / "inbox").exists, SOON, "it is being written")
            if how == "detach":
                anna.seat.detach()
            elif how == "reload":
                await host.service.reload(config.model_copy(update={"people": (Person(name="ben"),)}))
            else:
                await host.service.shutdown()
            with pytest.raises(FilesError, match="cut off"):
                await asyncio.wait_for(putting, SOON)
            with pytest.raises(FilesError, match="this seat is closed"):
                await anna.seat.put_file("b", pieces(b"x"))
            assert not live_jobs(config.service.state_dir)
            assert names(tmp_path / "work" / ".corral" / "inbox") == []


def asked(service: Service, **request: Any) -> list[str]:
    whole = {"state_dir": str(service.state_dir), **request}
    return [service.python, str(service.stage.harness / DRIVER), json.dumps(whole)]


def told(service: Service, data: bytes = b"", **request: Any) -> dict[str, Any]:
    done = service.run(asked(service, **request), text=data)
    assert done.returncode == 0, done.stderr
    line, _, rest = done.stdout.partition("\n")
    answer: dict[str, Any] = {**json.loads(line), "data": rest}
    return answer


@pytest.mark.cross_account
class TestAcross:
    """A service account and a person's account, with real sudo and the one rule that `corral sudoers` writes."""

    @pytest.fixture
    def work(self, service: Service, person: Account) -> Path:
        """A workspace that only the person may enter."""
        folder = service.folder / "home" / "work"
        folder.mkdir(parents=True)
        for one in (folder.parent, folder):
            os.chown(one, person.uid, person.gid)
            one.chmod(0o700)
        return folder

    @pytest.fixture
    def rule(self, service: Service, sudo_rules: Callable[..., Any]) -> list[str]:
        """The command line, which is all that sudo allows beside /bin/kill."""
        command: list[str] = told(service, act="command")["command"]
        sudo_rules(commands=(" ".join(map(escaped_word, command)),))
        return command

    @pytest.mark.slow
    def test_a_file_goes_both_ways(self, service: Service, person: Account, work: Path, rule: list[str]) -> None:
        common = {"account": person.name, "workspace": str(work)}
        answer = told(service, b"from the phone", act="put", name="../.photo.jpg", **common)
        path = work / ".corral" / "inbox" / "photo.jpg"
        assert answer == {"path": str(path), "data": ""}
        about = path.stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (person.uid, person.gid, 0o600)
        assert told(service, act="get", path=str(path), **common)["data"] == "from the phone"
        (work / "shadow").symlink_to("/etc/shadow")
        assert "is a symbolic link" in told(service, act="get", path="shadow", **common)["error"]
        (service.folder / "closed").write_text("the service's")
        os.chown(service.folder / "closed", service.account.uid, service.account.gid)
        (service.folder / "closed").chmod(0o600)
        (work / "hard").touch()
        os.chown(work / "hard", 0, 0)
        (work / "hard").chmod(0o600)
        assert told(service, act="get", path="hard", **common)["error"] == "hard cannot be read: Permission denied"
        service.wait_empty()

    def test_the_rule_allows_this_command_line_and_no_other(
        self, service: Service, person: Account, rule: list[str]
    ) -> None:
        def tried(*command: str) -> int:
            return service.run(["sudo", "-n", "-u", person.name, "--", *command]).returncode

        assert tried(*rule) == 0, "without a request it does nothing"
        for other in ([rule[0]], [*rule, "x"], [*rule[:-1], "/tmp/x.py"], [rule[0], "-c", "pass"], [rule[-1]]):
            assert tried(*other) == 1, other

    def test_without_a_rule_a_sentence_says_who_writes_it_and_names_no_wider_one(
        self, service: Service, person: Account, work: Path, sudo_rules: Callable[..., Any]
    ) -> None:
        sudo_rules(commands=("/usr/bin/true",))
        answer = told(service, b"x", act="put", name="a", account=person.name, workspace=str(work))
        assert answer["error"] == (
            f"files cannot be handed to {person.name}: sudo does not allow it."
            " The operator writes the rules again with `corral sudoers`"
        )
        assert list(work.iterdir()) == []

    def test_a_service_that_is_killed_leaves_no_file_and_nothing_running(
        self, service: Service, person: Account, work: Path, rule: list[str]
    ) -> None:
        program = service.start(
            asked(service, act="put", name="half", account=person.name, workspace=str(work)), stdin=subprocess.PIPE
        )
        assert program.stdin is not None
        program.stdin.write(b"x" * 1000)
        program.stdin.flush()
        wait_until((work / ".corral" / "inbox").exists, SOON, "it is being written")
        program.send_signal(signal.SIGKILL)
        service.wait_exit(program)
        service.wait_empty()
        assert names(work / ".corral" / "inbox") == []

    def test_a_workspace_that_is_shared_has_an_inbox_of_each_account(
        self, service: Service, person: Account, work: Path, rule: list[str]
    ) -> None:
        work.chmod(0o777)
        work.parent.chmod(0o755)
        own = {"account": service.account.name, "workspace": str(work)}
        assert told(service, b"x", act="put", name="a", **own)["path"] == f"{work}/.corral/inbox/a"
        answer = told(service, b"x", act="put", name="a", account=person.name, workspace=str(work))
        assert answer["path"] == f"{work}/.corral-{person.uid}/inbox/a"


def escaped_word(word: str) -> str:
    return escaped(word) if word.startswith("/") else word


async def test_a_person_whose_account_is_changed_loses_transfers_with_the_seat(tmp_path: Path) -> None:
    config = configured(tmp_path)
    moved = tuple(one.model_copy(update={"os_user": "games"}) for one in config.people)
    async with hosting(config) as host:
        anna = await host.seat()
        putting = asyncio.create_task(anna.seat.put_file("a", endless()))
        await until(lambda: live_jobs(config.service.state_dir), SOON, "it runs")
        changed = config.model_copy(update={"people": moved})
        await host.service.reload(changed, Access.own(changed))
        with pytest.raises(FilesError, match="cut off"):
            await asyncio.wait_for(putting, SOON)
