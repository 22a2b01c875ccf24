"""The plain functions of the process room, over generated input: reading, choosing, calling sudo, judging."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.process.bare import lifeline, mark, procfs, signals, sudo
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.environment import Variables
from corral.process.bare.launch import Launch
from corral.process.bare.report import Report, SignalCount, Survivor, judge
from corral.process.bare.reporting import Reporter
from corral.process.bare.request import Command
from corral.process.bare.rows import Rows, grow
from corral.process.bare.table import Process

PIDS = st.integers(2, 4_000_000)
UIDS = st.integers(0, 60_000)
NEVER = 1 << 62  # a look that began after all births


@st.composite
def forests(draw: st.DrawFn) -> list[Process]:
    """Processes whose parents come before them, some of them sudo, some dead."""
    pids = draw(st.lists(PIDS, unique=True, min_size=1, max_size=25))
    found: list[Process] = []
    for index, pid in enumerate(pids):
        parent = draw(st.sampled_from(found)) if index and draw(st.booleans()) else None
        is_sudo = draw(st.booleans())
        found.append(
            Process(
                pid=pid,
                ppid=parent.pid if parent else 1,
                depth=parent.depth + 1 if parent else 1,
                start_time=index,
                sid=pid,
                state=draw(st.sampled_from("RSDTZ")),
                uid=draw(UIDS),
                euid=0 if is_sudo else 1000,
                comm="sudo" if is_sudo else "agent",
            )
        )
    return found


def ancestors(process: Process, forest: list[Process]) -> list[Process]:
    by_pid = {one.pid: one for one in forest}
    line = []
    while (parent := by_pid.get(process.ppid)) is not None:
        line.append(parent)
        process = parent
    return line


class TestReadingStat:
    @given(
        pid=PIDS,
        comm=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=15),
        state=st.sampled_from("RSDZTtXI"),
        numbers=st.lists(st.integers(0, 2**40), min_size=49, max_size=49),
    )
    def test_any_name_is_read_and_the_fields_behind_it_are_not_moved(
        self, pid: int, comm: str, state: str, numbers: list[int]
    ) -> None:
        line = procfs.parse_stat(f"{pid} ({comm}) {state} {' '.join(map(str, numbers))}\n".encode())
        assert (line.pid, line.comm, line.state) == (pid, comm, state)
        assert (line.ppid, line.pgid, line.sid) == tuple(numbers[:3])
        assert (line.children_faults, line.threads, line.start_time) == (numbers[7], numbers[16], numbers[18])

    @pytest.mark.parametrize(
        ("text", "unit"),
        [
            ("0::/system.slice/bot.service\n", "bot.service"),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/codex.service\n", "codex.service"),
            ("0::/system.slice/bot.service/jobs/one\n", "bot.service"),
            ("12:pids:/x.service\n1:name=systemd:/system.slice/bot.service\n0::/\n", "bot.service"),
            ("9:name=systemd:/\n4:memory:/process/1\n0::/\n", ""),
            ("0::/docker/0123\n", ""),
            ("", ""),
        ],
    )
    def test_the_unit_is_read_from_the_control_group(self, text: str, unit: str) -> None:
        assert procfs.unit_in(text) == unit

    @given(cut=st.integers(0, 60))
    def test_a_line_that_is_cut_short_is_refused_and_never_misread(self, cut: int) -> None:
        whole = b"71 (a) b) S " + b" ".join(b"%d" % number for number in range(4, 53))
        with pytest.raises(ValueError, match=r"cut short|substring|subsection|invalid|int"):
            procfs.parse_stat(whole[:cut])

    def test_this_very_process_is_read_as_the_kernel_has_it(self) -> None:
        me = procfs.read(os.getpid())
        assert me is not None
        assert (me.ppid, me.pgid, me.sid) == (os.getppid(), os.getpgid(0), os.getsid(0))
        assert (me.uid, me.euid, me.saved_uid) == os.getresuid()
        assert me.living

    def test_a_dead_main_thread_with_living_others_counts_as_living(self) -> None:
        assert Process(7, state="Z", threads=2).living
        assert not Process(7, state="Z", threads=1).living


NUMBERS = st.integers(1, 30)


def walk(lists: Mapping[int, list[int]], parents: Mapping[int, int]) -> list[Process]:
    """Walk a table in which each row names one parent, whatever the lists of children say."""
    read = {pid: Process(pid, ppid=parent, start_time=0) for pid, parent in parents.items()}.get
    return procfs.below(
        Process(1), lambda: lambda pid: lists.get(pid, []), read, began=1, is_same=lambda process: process.pid == 1
    )


class OneLook(dict[int, Process]):
    """A table that shows, after a look, these rows."""

    def read(self, pid: int) -> Process | None:
        return self.get(pid)


def rows_of(rows: Iterable[Process], *, began: int = NEVER, now: Iterable[Process] = ()) -> Rows:
    return Rows(OneLook({row.pid: row for row in now}), rows, began)


class TestWalking:
    @given(parents=st.dictionaries(NUMBERS, NUMBERS, max_size=30))
    def test_a_walk_of_any_table_even_a_circular_one_ends_and_visits_each_once(self, parents: dict[int, int]) -> None:
        lists: dict[int, list[int]] = {}
        for pid, parent in parents.items():
            lists.setdefault(parent, []).append(pid)
        found = walk(lists, parents)
        assert len({process.pid for process in found}) == len(found)
        assert [process.depth for process in found] == sorted(process.depth for process in found)
        reachable, queue = set(), [1]
        while queue:
            for pid in lists.get(queue.pop(), []):
                if pid not in reachable and pid != 1:
                    reachable.add(pid)
                    queue.append(pid)
        assert {process.pid for process in found} == reachable

    @given(
        lists=st.dictionaries(NUMBERS, st.lists(NUMBERS, max_size=6), max_size=30),
        parents=st.dictionaries(NUMBERS, NUMBERS, max_size=30),
    )
    def test_a_walk_takes_nobody_whose_own_row_names_another_parent(
        self, lists: dict[int, list[int]], parents: dict[int, int]
    ) -> None:
        found = {process.pid: process for process in walk(lists, parents)}
        for process in found.values():
            line, above = {process.pid}, process
            while above.ppid != 1 and above.readable:
                above = found[above.ppid]
                assert above.pid not in line, "nobody is below itself"
                line.add(above.pid)

    @given(forest=forests(), data=st.data())
    def test_growing_takes_in_everything_below_the_seeds_and_nothing_else(
        self, forest: list[Process], data: st.DataObject
    ) -> None:
        seeds = data.draw(st.lists(st.sampled_from(forest), unique=True))
        wanted = {one.pid for one in seeds}
        expected = {one.pid for one in forest if one.pid in wanted or wanted & {a.pid for a in ancestors(one, forest)}}
        assert {one.pid for one in grow(rows_of(forest), seeds)} == expected

    def test_growing_follows_a_session_but_never_this_process_s_own(self) -> None:
        own = os.getsid(0)
        rows = [Process(10, 1, sid=10, start_time=1), Process(11, 1, sid=10, start_time=2), Process(12, 1, sid=own)]
        assert {one.pid for one in grow(rows_of(rows), [rows[0]])} == {10, 11}
        assert {one.pid for one in grow(rows_of([*rows, Process(13, 1, sid=own)]), [rows[2]])} == {12}


class TestLargeTrees:
    """What a look at 4,000 processes may cost, in seconds of CPU: it comes between every two rounds of KILL."""

    SIZE, BOUND = 4000, 1.0

    def test_one_session(self) -> None:
        rows = [Process(100 + number, 1, sid=100, start_time=number % 3) for number in range(self.SIZE)]
        began = time.process_time()
        # Half of them were born since the look began, and of none of them it is known that it is still there.
        assert {one.start_time for one in grow(rows_of(rows, began=2), rows[:1])} == {0, 1}
        assert len(grow(rows_of(rows, began=2, now=rows[-2:]), rows[:1])) == self.SIZE
        assert time.process_time() - began < self.BOUND

    def test_one_long_chain(self) -> None:
        rows = [Process(100 + number, 99 + number, sid=100 + number, start_time=1) for number in range(self.SIZE)]
        began = time.process_time()
        depths = [one.depth for one in grow(rows_of(rows), rows[:1])]
        assert depths == list(range(1, self.SIZE + 1))
        assert time.process_time() - began < self.BOUND

    def test_a_long_chain_below_sudo(self) -> None:
        sudo = Process(99, 1, uid=1000, euid=0, comm="sudo")
        rows = [sudo, *(Process(100 + number, 99 + number, uid=1001) for number in range(self.SIZE))]
        began = time.process_time()
        assert signals.relays(rows) == {99}
        assert time.process_time() - began < self.BOUND


class TestRowsOfOneLook:
    """They were read one after the other: the member at 10, with pid 7 and session 7; the look began at 10, too."""

    MEMBER = Process(7, 1, sid=7, start_time=5)

    def joined(self, other: Process, now: Process | None) -> tuple[list[Process], list[Process], Process | None]:
        rows = rows_of([self.MEMBER, other], began=10, now=[now] if now else [])
        session = [row for row in rows.session(self.MEMBER, set()) if row != self.MEMBER]
        return rows.children(self.MEMBER), session, rows.parent(other)

    @pytest.mark.parametrize("now", [None, MEMBER._replace(start_time=11), MEMBER], ids=["gone", "stranger", "there"])
    def test_a_child_that_is_older_than_the_look_is_the_members_own(self, now: Process | None) -> None:
        child = Process(8, 7, sid=7, start_time=9)
        assert self.joined(child, now) == ([child], [child], self.MEMBER)

    def test_a_newborn_of_a_member_that_is_still_there_is_its_own(self) -> None:
        newborn = Process(8, 7, sid=7, start_time=10)
        assert self.joined(newborn, self.MEMBER) == ([newborn], [newborn], self.MEMBER)

    @pytest.mark.parametrize("now", [None, MEMBER._replace(start_time=11)], ids=["gone", "stranger"])
    def test_a_newborn_of_a_pid_that_changed_hands_is_a_strangers(self, now: Process | None) -> None:
        assert self.joined(Process(8, 7, sid=7, start_time=10), now) == ([], [], None)

    def test_a_newborn_in_a_session_that_the_member_has_left_is_a_strangers(self) -> None:
        newborn = Process(8, 1, sid=7, start_time=10)
        assert self.joined(newborn, self.MEMBER._replace(sid=9))[1] == []

    def test_nobody_is_older_than_its_parent(self) -> None:
        older = Process(8, 7, sid=8, start_time=4)
        assert self.joined(older, self.MEMBER) == ([], [], None)


class TestChoosing:
    @given(forest=forests())
    def test_innermost_first_signals_no_parent_before_its_child(self, forest: list[Process]) -> None:
        order = [process.pid for process in signals.innermost_first(forest)]
        for process in forest:
            for parent in ancestors(process, forest):
                assert order.index(process.pid) < order.index(parent.pid)

    @given(forest=forests())
    def test_a_sudo_is_spared_exactly_when_something_lives_below_it(self, forest: list[Process]) -> None:
        kept = {process.pid for process in signals.spare_sudo(forest)}
        for process in forest:
            above_others = any(
                one.living and one.uid != process.uid and process in ancestors(one, forest) for one in forest
            )
            assert (process.pid in kept) == (not (signals.is_sudo(process) and above_others))

    def test_a_person_s_process_that_calls_itself_sudo_is_not_spared(self) -> None:
        impostor = Process(5, 1, comm="sudo", uid=1000, euid=1000, depth=1)
        child = Process(6, 5, comm="x", state="S", depth=2)
        assert impostor in signals.spare_sudo([impostor, child])

    def test_a_set_uid_program_behind_a_link_named_sudo_is_not_spared(self) -> None:
        impostor = Process(5, 1, comm="sudo", uid=1000, euid=0, depth=1)
        child = Process(6, 5, comm="x", state="S", uid=1000, euid=1000, depth=2)
        assert impostor in signals.spare_sudo([impostor, child])
        assert impostor not in signals.spare_sudo([impostor, child._replace(uid=1001)])

    @given(forest=forests(), real=UIDS, person=UIDS)
    def test_every_process_is_signalled_once_directly_or_through_its_own_account(
        self, forest: list[Process], real: int, person: int
    ) -> None:
        direct, others = signals.split_by_account(forest, real, real)
        assert sorted([*direct, *(one for theirs in others.values() for one in theirs)]) == sorted(forest)
        for uid, theirs in others.items():
            assert all(one.uid == uid != real for one in theirs)
            assert real != 0, "root needs nobody's help"


class TestCallingSudo:
    @given(pids=st.lists(PIDS, max_size=50_000 // 8), groups=st.lists(PIDS, max_size=5))
    def test_every_pid_goes_out_once_in_its_order_in_calls_that_an_argument_list_can_hold(
        self, pids: list[int], groups: list[int]
    ) -> None:
        lines = sudo.kill_lines("/usr/bin/sudo", "daniel", "KILL", pids, groups)
        head = ["/usr/bin/sudo", "-n", "-u", "daniel", "/bin/kill", "-KILL"] + (["--"] if groups else [])
        assert all(line[: len(head)] == head for line in lines)
        sent = [int(word) for line in lines for word in line[len(head) :]]
        assert sent == [*pids, *(-group for group in groups)]
        assert all(sum(len(word) + 1 for word in line) < 128 * 1024 for line in lines)

    def test_a_tree_of_ten_thousand_is_one_call(self) -> None:
        assert len(sudo.kill_lines("sudo", "daniel", "KILL", list(range(30_000, 40_000)))) == 1

    @given(bad=st.integers(-5, 1), where=st.booleans())
    def test_numbers_that_reach_more_than_one_process_are_refused(self, bad: int, where: bool) -> None:
        with pytest.raises(ValueError, match="refusing"):
            sudo.kill_lines("sudo", "daniel", "KILL", [7, bad] if where else [7], [] if where else [bad])

    def test_nothing_of_the_environment_but_names_is_in_the_argument_list(self) -> None:
        line = sudo.command_line("sudo", "daniel", ["codex", "app-server"], preserve=["TOKEN", "A"], directory="/srv")
        assert line == [
            *("sudo", "-n", "-H", "-u", "daniel", "--preserve-env=A,TOKEN", "-D", "/srv"),
            *("--", "codex", "app-server"),
        ]

    def test_the_line_that_is_missing_is_the_exact_one(self) -> None:
        assert sudo.rule("kai", "daniel", "/bin/kill") == "kai ALL=(daniel) NOPASSWD: /bin/kill"
        assert sudo.rule("kai", "daniel", "/usr/bin/codex", environment=True, directory=True) == (
            "kai ALL=(daniel) CWD=* NOPASSWD:SETENV: /usr/bin/codex"
        )

    def test_a_call_that_does_not_answer_is_given_up_and_killed(self) -> None:
        outcome = sudo.run(["/bin/sleep", "1000"], timeout=0.05)
        assert outcome.status is None
        assert sudo.refused(outcome)

    def test_what_kill_says_of_a_pid_is_not_sudos_refusal(self) -> None:
        assert not sudo.refused(sudo.Outcome(1, "/bin/kill: (4242): No such process"))
        assert sudo.refused(sudo.Outcome(1, "sudo: a password is required"))

    WARNING = "sudo: unable to resolve host vm: Name or service not known"
    NOT_ALLOWED = "Sorry, user kai is not allowed to execute '/bin/kill' as daniel on vm."

    @pytest.mark.parametrize(
        ("status", "message", "refused", "forbidden"),
        [
            (0, WARNING, False, False),
            (1, WARNING, False, False),
            (1, f"{WARNING}\n/bin/kill: (4242): No such process", False, False),
            (1, f"{WARNING}\nsudo: a password is required", True, True),
            (1, NOT_ALLOWED, True, True),
            (1, "sudo: unable to execute /bin/kill: Resource temporarily unavailable", True, False),
            (None, "sudo gave no answer in 5 s", True, False),
        ],
    )
    def test_a_refusal_is_sudos_own_last_word_and_a_missing_rule_is_named_by_it(
        self, status: int | None, message: str, refused: bool, forbidden: bool
    ) -> None:
        outcome = sudo.Outcome(status, message)
        assert (sudo.refused(outcome), sudo.forbids(outcome)) == (refused, forbidden)


class TestJudging:
    SURVIVOR = Survivor(7, 1, "daniel", "D", "codex", "asleep")

    @given(proof=st.sampled_from([None, "no_children", "cgroup"]), empty=st.booleans(), left=st.booleans())
    def test_a_verdict_never_claims_more_than_was_seen(self, proof: str | None, empty: bool, left: bool) -> None:
        verdict = judge(proof, empty, [self.SURVIVOR] if left else [])
        assert (verdict == "survivors") == (left or not empty)
        if verdict == "proven_empty":
            assert proof is not None

    @given(
        seconds=st.floats(0, 1e6),
        sent=st.lists(st.tuples(st.sampled_from(["TERM", "KILL"]), st.text(max_size=8), st.integers(0, 9))),
        left=st.integers(0, 3),
    )
    def test_a_report_survives_json(self, seconds: float, sent: list[tuple[str, str, int]], left: int) -> None:
        report = Report(
            "survivors", None, round(seconds, 6), tuple(SignalCount(*one) for one in sent), (self.SURVIVOR,) * left
        )
        assert Report.from_json(report.to_json()) == report

    def test_the_keys_of_the_contract_are_there(self) -> None:
        sent = (SignalCount("KILL", "daniel", 2),)
        data = Report("survivors", None, 1.0, sent, (self.SURVIVOR,)).to_json()
        assert {"verdict", "proof", "seconds", "signals", "survivors"} <= set(data)
        assert data["signals"] == [{"signal": "KILL", "account": "daniel", "count": 2}]
        assert set(data["survivors"][0]) == {"pid", "start_time", "user", "state", "command", "reason"}


class TestLifelineMessages:
    MESSAGES = st.lists(
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3), max_size=9
    )

    @given(messages=MESSAGES, cuts=st.lists(st.integers(1, 40)))
    def test_messages_come_out_whole_however_the_stream_is_cut(
        self, messages: list[dict[str, Any]], cuts: list[int]
    ) -> None:
        stream = b"".join(lifeline.encode(message) for message in messages)
        decoder, found = lifeline.Decoder(), []
        for cut in cuts:
            found += decoder.feed(stream[:cut])
            stream = stream[cut:]
        assert found + decoder.feed(stream) == messages

    @given(garbage=st.binary(max_size=60).filter(lambda data: b"\n" not in data))
    def test_a_bad_line_costs_only_itself(self, garbage: bytes) -> None:
        good = {"end": {"grace": 1}}
        *_, last = lifeline.Decoder().feed(garbage + b"\n" + lifeline.encode(good))
        assert last == good

    def test_a_line_without_end_is_dropped_and_the_next_one_is_read(self) -> None:
        decoder = lifeline.Decoder()
        found = decoder.feed(b"x" * (lifeline.MOST_BYTES + 1))
        assert [type(one) for one in found] == [lifeline.BadMessage]
        assert decoder.feed(b"xxx\n" + lifeline.encode({"end": {}})) == [{"end": {}}]

    def test_a_message_cut_short_costs_only_itself_and_is_told_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A supervisor that was stopped, and reads on later."""
        monkeypatch.setattr(lifeline, "_SEND_WITHIN", 0.05)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            end = lifeline.ReaperEnd(theirs.fileno())
            large = {"report": "x" * 2_000_000}
            assert not end.send(large)
            assert not end.send({"notice": "lost as well"})
            decoder, found = lifeline.Decoder(), decoded(ours)
            assert end.send({"exited": 0})
            found += decoded(ours)
            monkeypatch.setattr(lifeline, "_SEND_WITHIN", 10)
            reader = threading.Thread(target=lambda: found.append(read_until(ours, b'x"}\n')))
            reader.start()
            assert end.send(large)
            reader.join(10)
        messages = decoder.feed(b"".join(found))
        assert [one for one in messages if isinstance(one, dict)] == [{"exited": 0}, large]

    @pytest.mark.parametrize("survivors", [1, 12, 5000])
    def test_a_report_of_survivors_fits_into_a_message_whatever_they_call_themselves(self, survivors: int) -> None:
        class Tracker:
            proof, blind, mark = None, False, 0

            def members(self) -> list[Process]:
                return [Process(2 + number, uid=1, start_time=1, state="D") for number in range(survivors)]

            def empty(self) -> bool:
                return False

            def kill(self, due: list[Process], _killer: object) -> list[Process]:
                return due

        line = "\N{LINEAR B SYLLABLE B008 A}" * 2_000_000

        class Table:
            def command(self, _pid: int) -> str:
                return line

        class Signaller:
            counts, refusals = (), {}

            def send(self, *_arguments: object, **_more: object) -> None:
                pass

        ending = Ending(cast("Any", Tracker()), cast("Any", Signaller()), cast("Any", Table()), lambda _seconds: None)
        report = ending.run(Ladder(0, 0), cause="request", ended_by="reaper")
        assert len(report.survivors) == survivors
        assert all(one.command for one in report.survivors)
        assert len(json.dumps({"report": report.to_json()})) < lifeline.MOST_BYTES

    def test_a_report_that_could_not_be_sent_is_sent_again(self) -> None:
        class Wire:
            sent, hears = [], False

            def send(self, message: dict[str, Any]) -> bool:
                self.sent.append(message)
                return self.hears

        wire = Wire()
        reporter = Reporter(cast("Any", wire), None, ())
        reporter.deliver(Report("survivors", None, 1.0))
        wire.hears = True
        for _ in range(3):
            reporter.send_again()
        assert len(wire.sent) == 2
        assert wire.sent[0] == wire.sent[1]


def decoded(end: socket.socket) -> list[bytes]:
    """What can be read now."""
    end.setblocking(False)
    found = []
    with suppress(BlockingIOError):
        while data := end.recv(1 << 20):
            found.append(data)
    end.setblocking(True)
    return found


def read_until(end: socket.socket, last: bytes) -> bytes:
    data = b""
    while not data.endswith(last):
        data += end.recv(1 << 20)
    return data


class TestStarting:
    def test_a_child_that_has_failed_and_does_not_go_keeps_nobody_waiting(self) -> None:
        """It was stopped after its last word, or hangs in its exit: who gives up the start is heard."""

        class GivenUpError(Exception):
            pass

        def give_up(_seconds: float, _descriptor: int = -1) -> bool:
            raise GivenUpError

        launch = Launch(
            Command(("true",), None, Variables({}, None, None), None, "/"),
            ignored=(),
            caller=sudo.Caller(),
            wait=give_up,
            in_child=lambda: None,
            forked=lambda _: None,
            planned=lambda _: None,
        )
        child = subprocess.Popen(["sleep", "1000"])
        try:
            launch.pid = child.pid
            signal.alarm(20)
            with pytest.raises(GivenUpError):
                launch._take({"error": "cwd", "message": "there is none"})
        finally:
            signal.alarm(0)
            child.kill()
            child.wait()


class TestMark:
    @given(limits=st.tuples(*[st.integers(1, 2**62)] * 4))
    def test_both_limits_are_read_from_the_kernels_table(self, limits: tuple[int, int, int, int]) -> None:
        table = (
            b"Limit                     Soft Limit           Hard Limit           Units     \n"
            b"Max file locks            %-20d %-20d locks     \n"
            b"Max realtime priority     0                    0                    \n"
            b"Max realtime timeout      %-20d %-20d us        \n" % limits
        )
        assert mark.parse(table) == limits

    def test_no_limit_is_no_mark(self) -> None:
        assert mark.parse(b"Max realtime timeout      unlimited            unlimited            us\n") == ()
        assert not mark.carries(os.getpid(), 0)

    def test_a_mark_leaves_days_of_processor_time(self) -> None:
        assert mark.choose() == 0 or mark.choose() >= 1 << 40


def test_may_signal_is_kill_2s_rule() -> None:
    sudo_of_ours = Process(9, uid=5, euid=0, saved_uid=0)
    theirs = Process(9, uid=6, euid=6, saved_uid=6)
    assert signals.may_signal(sudo_of_ours, 5, 5)
    assert not signals.may_signal(theirs, 5, 5)
    assert signals.may_signal(theirs, 0, 0)
