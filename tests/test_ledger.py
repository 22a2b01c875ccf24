"""The ledger's records: written before the command, believed only when genuine, harmless when they are not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.process import Ladder, sweep
from corral.process.bare import ledger, mark, procfs
from corral.process.bare.errors import LedgerError
from corral.process.bare.ledger import Entry, Record, Rejected
from tests.harness import truth

HEADER: dict[str, Any] = {
    "boot_id": "b",
    "host_id": procfs.host_id(),
    "namespace": procfs.namespace(),
    "supervisor": [2, 1],
    "reaper": [3, 1],
    "user": "daniel",
    "label": "",
    "command": "codex",
    "mark": 0,
    "started": 1.0,
    "grace": 1.0,
    "kill": 1.0,
}
MEMBERS = [(10, 100), (11, 101), (12, 102)]


def written(folder: Path, name: str = "one") -> Path:
    record = Record.create(str(folder), name, HEADER)
    for member in MEMBERS:
        record.add([member])
    record.close()
    return Path(record.path)


def read(path: Path) -> Entry | Rejected:
    return ledger.read(str(path), (path.parent / "key").read_bytes())


def test_a_record_says_what_was_written(tmp_path: Path) -> None:
    entry = read(written(tmp_path))
    assert isinstance(entry, Entry)
    assert (entry.id, entry.user, entry.members) == ("one", "daniel", frozenset(MEMBERS))


def test_a_record_cut_short_anywhere_gives_what_was_whole_or_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    known: set[frozenset[tuple[int, int]]] = set()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        entry = read(path)
        if isinstance(entry, Entry):
            assert entry.members <= set(MEMBERS)
            known.add(entry.members)
    assert known == {frozenset(MEMBERS[:count]) for count in range(len(MEMBERS))}


@settings(max_examples=200)
@given(data=st.data())
def test_a_changed_byte_adds_no_member(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("state"))
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    entry = read(path)
    assert isinstance(entry, Rejected) or entry.members <= set(MEMBERS)


def test_a_record_under_another_name_or_another_key_is_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "a")
    other = written(tmp_path / "b")
    copy = path.with_name("two.job")
    copy.write_bytes(path.read_bytes())
    assert isinstance(read(copy), Rejected)
    other.write_bytes(path.read_bytes())
    assert isinstance(read(other), Rejected)


def test_lines_cannot_be_moved_between_places(tmp_path: Path) -> None:
    path = written(tmp_path)
    head, first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(head + second + first + third)
    entry = read(path)
    assert isinstance(entry, Entry)
    assert entry.members == frozenset()


@pytest.mark.parametrize("text", ["", "{}", "{} {}\n", "\n\n", '{"format":1} 00\n', "\xff\xfe", "[" * 100_000])
def test_a_file_written_by_hand_is_rejected_and_harms_nobody(text: str, tmp_path: Path) -> None:
    written(tmp_path).unlink()
    path = tmp_path / "jobs" / "hand.job"
    path.write_text(text)
    result = sweep(tmp_path)
    assert [Path(one.path) for one in result.rejected] == [path]
    assert result.swept == ()
    assert path.read_text() == text


def test_a_link_or_a_pipe_in_place_of_a_record_is_rejected(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path.parent / "link.job").symlink_to(path)
    os.mkfifo(path.parent / "pipe.job")
    kinds = {Path(one.path).name: type(one) for one in ledger.entries(str(tmp_path))}
    assert kinds == {"one.job": Entry, "link.job": Rejected, "pipe.job": Rejected}


def test_a_record_of_another_boot_is_cleared_away_and_nothing_is_signalled(tmp_path: Path) -> None:
    path = written(tmp_path)
    result = sweep(tmp_path)
    assert result.clean
    assert [one.report.signals for one in result.swept] == [()]
    assert not path.exists()


@pytest.mark.parametrize("host", [{"host_id": "f" * 32}, {}], ids=["another_host", "older_version"])
def test_a_boot_that_may_be_another_hosts_is_not_called_an_earlier_one(host: dict[str, str], tmp_path: Path) -> None:
    """A folder that several hosts share (NFS): the job may live on another one."""
    header = {name: value for name, value in HEADER.items() if name != "host_id"}
    record = Record.create(str(tmp_path), "one", {**header, **host})
    record.close()
    result = sweep(tmp_path)
    assert (result.clean, result.swept, [one.entry.id for one in result.elsewhere]) == (False, (), ["one"])
    assert "host" in result.elsewhere[0].reason
    assert Path(record.path).exists()


def test_a_host_without_a_machine_id_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (b"", b"uninitialized\n"):
        monkeypatch.setattr(procfs, "_slurp", lambda _path, text=broken: text)
        assert procfs.host_id() == os.uname().nodename
    monkeypatch.setattr(procfs, "_slurp", lambda _path: b"0123456789abcdef0123456789abcdef\n")
    assert procfs.host_id() == "0123456789abcdef0123456789abcdef"


def killed_at(call: str, work: Callable[[], object]) -> None:
    """Do the work in a child that is killed when it makes this call of the os module."""
    child = os.fork()
    if child == 0:
        setattr(os, call, lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_writer_left_half_done_goes_with_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at("link", lambda: Record.create(str(tmp_path), "one", HEADER))
    monkeypatch.setattr(ledger, "_COMPACT_BYTES", 1)
    record = Record.create(str(tmp_path), "one", HEADER)
    killed_at("replace", lambda: record.compact([]))
    record.close()
    names = {path.name for path in (tmp_path / "jobs").iterdir()}
    assert len(names) == 4
    assert {"key", "one.job", "one.job.new"} < names
    assert sweep(tmp_path).clean
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["key"]


def test_what_a_living_writer_has_half_done_stays(tmp_path: Path) -> None:
    path = written(tmp_path)
    descriptor = ledger._create_locked(f"{path}.new")
    sweep(tmp_path)
    assert Path(f"{path}.new").exists()
    os.close(descriptor)


def test_a_living_writer_keeps_its_record_from_everybody(tmp_path: Path) -> None:
    record = Record.create(str(tmp_path), "one", HEADER)
    assert ledger.claim(record.path) is None
    record.close()
    claim = ledger.claim(record.path)
    assert claim is not None
    claim.release(remove=True)
    assert not Path(record.path).exists()


def test_a_record_that_grew_large_is_compacted_to_the_living(tmp_path: Path) -> None:
    record = Record.create(str(tmp_path), "one", HEADER)
    for start in range(0, 60_000, 1000):
        record.add((pid, 1) for pid in range(start + 2, start + 1002))
    before = Path(record.path).stat().st_size
    record.compact([(5, 1), (6, 1)])
    assert Path(record.path).stat().st_size < before / 100
    assert ledger.claim(record.path) is None, "it is locked as before"
    entry = ledger.find(str(tmp_path), "one")
    assert entry is not None
    assert entry.members == {(5, 1), (6, 1)}
    record.add([(7, 1)])
    after = ledger.find(str(tmp_path), "one")
    assert after is not None
    assert after.members == {(5, 1), (6, 1), (7, 1)}
    record.close()


def test_finding_one_record_reads_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    for number in range(3):
        written(tmp_path, f"other-{number}")
    opened: list[str] = []
    genuine = os.open

    def noting(name: Any, *arguments: Any, **options: Any) -> int:
        opened.append(Path(name).name)
        return genuine(name, *arguments, **options)

    monkeypatch.setattr(os, "open", noting)
    entry = ledger.find(str(tmp_path), "one")
    assert entry is not None
    assert entry.path == str(path)
    assert [name for name in opened if name.endswith(".job")] == ["one.job"]
    assert ledger.find(str(tmp_path), "../jobs/one") is None
    assert ledger.find(str(tmp_path), "absent") is None


def test_a_folder_that_others_may_write_to_is_refused_with_what_to_do(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "jobs").chmod(0o777)
    with pytest.raises(LedgerError, match="chmod 700"):
        ledger.entries(str(tmp_path))
    with pytest.raises(LedgerError, match="--state-dir"):
        Record.create(str(tmp_path), "two", HEADER)


def test_no_ledger_is_an_empty_one(tmp_path: Path) -> None:
    assert ledger.entries(str(tmp_path / "absent")) == []
    assert sweep(tmp_path / "absent").clean


def test_the_default_folder_is_where_the_platform_keeps_a_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert ledger.default_state_dir() == platformdirs.user_state_dir("corral")


def test_a_folder_or_an_odd_name_among_the_records_is_rejected_and_stops_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path.parent / "folder.job").mkdir()
    Path(os.fsdecode(bytes(path.parent) + b"/odd\xff.job")).touch()
    result = sweep(tmp_path)
    assert len(result.rejected) == 2
    assert [one.entry.id for one in result.swept] == ["one"]


def test_a_rejected_record_whose_job_lives_on_is_not_called_clean(tmp_path: Path) -> None:
    """Its word is worth nothing, but the mark of what it started can be seen."""
    path = written(tmp_path)
    (tmp_path / "jobs" / "key").unlink()
    number = mark.choose()
    program = (
        f"import resource, time; resource.setrlimit(15, ({number}, {number})); print(flush=True); time.sleep(1000)"
    )
    stray = subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE)
    assert stray.stdout is not None
    stray.stdout.readline()
    result = sweep(tmp_path)
    assert stray.pid in {one.pid for one in result.strays}
    assert not result.clean
    assert stray.poll() is None, "it was left alone"
    stray.kill()
    stray.communicate()
    result = sweep(tmp_path)
    assert stray.pid not in {one.pid for one in result.strays}
    # What the file stood for may have no mark, or be in another namespace: only whoever looks can say that it is gone.
    assert not result.clean
    [rejected] = result.rejected
    assert rejected.path == str(path)
    # What the advice says to do is done as it says.
    command = rejected.advice.partition("`")[2].partition("`")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert not path.exists()
    assert sweep(tmp_path).clean


def test_the_advice_for_a_damaged_record_names_a_file_whose_name_a_shell_would_split(tmp_path: Path) -> None:
    folder = tmp_path / "a folder; of $HOME's"
    written(folder).unlink()
    (folder / "jobs" / "one.job").mkdir()
    [rejected] = sweep(folder).rejected
    subprocess.run(["sh", "-c", rejected.advice.partition("`")[2].partition("`")[0]], check=True)
    assert sweep(folder).clean


def test_a_marked_process_below_a_living_reaper_is_not_a_stray(tmp_path: Path) -> None:
    """The line up to the reaper is climbed by identity."""
    written(tmp_path / "damaged")
    (tmp_path / "damaged" / "jobs" / "key").unlink()
    program = (
        "import asyncio, sys; from corral.process import Job\n"
        "async def main():\n"
        "    job = await Job.start(['sh', '-c', 'setsid sleep 1000 & wait'], state_dir=sys.argv[1])\n"
        "    while len(job.tree()) < 2: await asyncio.sleep(0.01)\n"
        "    print(*(one.pid for one in job.tree()), flush=True)\n"
        "    sys.stdin.read()\n"
        "    await job.end(grace=0)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "state")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        tree = {int(pid) for pid in supervisor.stdout.readline().split()}
        assert len(tree) == 2
        assert not tree & {one.pid for one in sweep(tmp_path / "damaged").strays}


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that no job has anything to do with."""
    found = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield found
    found.kill()
    found.wait()


def left_by_the_dead(folder: Path, **header: Any) -> Record:
    """A genuine record of this boot, whose supervisor and reaper cannot be alive: no process is older than the boot."""
    alone: dict[str, Any] = {"boot_id": procfs.boot_id(), "supervisor": [2, 0], "reaper": [3, 0], "grace": 0, "kill": 0}
    return Record.create(str(folder), "one", {**HEADER, **alone, **header})


def start_time(process: subprocess.Popen[bytes]) -> int:
    seen = truth.look(process.pid)
    assert seen is not None
    return seen.start_time


def test_a_genuine_record_that_names_a_pid_which_a_stranger_has_now_does_not_touch_the_stranger(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    record = left_by_the_dead(tmp_path)
    began = start_time(stranger)
    record.add([(stranger.pid, began - 1), (stranger.pid, began + 1), (stranger.pid, 0)])
    record.close()
    result = sweep(tmp_path)
    assert stranger.poll() is None
    assert truth.look(stranger.pid).state not in "Tt", "nor was it stopped"
    assert [(one.entry.id, one.report.verdict, one.report.signals) for one in result.swept] == [
        ("one", "empty_by_scan", ())
    ]
    assert not Path(record.path).exists()


def test_the_same_record_with_the_right_start_time_is_the_end_of_what_it_names(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """What makes the test above one that could fail."""
    record = left_by_the_dead(tmp_path)
    record.add([(stranger.pid, start_time(stranger))])
    record.close()
    result = sweep(tmp_path, ladder=Ladder(0, 10))
    assert [one.report.verdict for one in result.swept] == ["empty_by_scan"]
    assert stranger.wait(10) == -signal.SIGKILL


def test_a_stranger_with_the_pids_of_the_dead_supervisor_and_reaper_is_taken_for_neither(
    tmp_path: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is locked, as by a reaper that holds on, so that the sweep would wake that one with TERM."""
    monkeypatch.setattr("corral.process.sweeping._HELD_MARGIN", 0.1)
    reused = [stranger.pid, start_time(stranger) - 1]
    record = left_by_the_dead(tmp_path, supervisor=reused, reaper=reused)
    result = sweep(tmp_path)
    assert (result.live, [entry.id for entry in result.held]) == ((), ["one"])
    assert stranger.poll() is None
    record.close()
    assert [one.entry.id for one in sweep(tmp_path).swept] == ["one"]
    assert stranger.poll() is None
