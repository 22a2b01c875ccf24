"""One service for many people: their turns, their bounds, their commands, and its end."""

import asyncio
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from corral.backends import engine_process
from corral.backends.backend import Answer, Input
from corral.backends.backend_process import BackendProcess
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Notice,
    Text,
    TurnEnded,
)
from corral.process import Report
from corral.service import processes, service
from corral.service.conversation import WORDLESS
from corral.service.front import Reply
from corral.service.service import AccessError
from corral.service.store import records
from corral.service.store.store import Store, StoreError
from tests.harness.freezer import Freezer, NoFreezerError, freezer
from tests.harness.hosting import Host, Place, Watcher, configured, hosting
from tests.harness.stage import Stage
from tests.harness.waiting import until


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def make_unwritable(folder: Path) -> None:
    """Take away what every question to the store needs."""
    with closing(sqlite3.connect(folder / "state" / "corral.db")) as connection:
        for table in ("turns", "conversations", "backends", "channels"):
            connection.execute(f"alter table {table} rename to lost_{table}")


class TestPeople:
    async def test_who_is_not_in_the_configuration_gets_nothing(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            with pytest.raises(AccessError) as error:
                await host.seat("mallory")
            assert not str(error.value), "and learns nothing"

    @pytest.mark.parametrize("engine", ["codex", "claude"])
    async def test_a_turn_of_one_never_waits_for_that_of_another(self, engine: str, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, service={"engine": engine})) as host:
            anna, ben = await host.seat("anna"), await host.seat("ben")
            anna.say("silent")
            await anna.front.until(lambda: anna.seat.conversation.began, "anna's turn runs")
            ben.say("talk")
            assert (await ben.front.turns(1))[0].status == "completed"
            assert not anna.front.of(TurnEnded)
            anna.seat.interrupt()
            assert (await anna.front.turns(1))[0].status == "interrupted"
            assert not ben.front.of(Notice)

    async def test_a_backend_starts_with_the_first_message_and_serves_the_next(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            assert host.service.pool.count == 0
            for number in (1, 2):
                anna.say("where")
                await anna.front.turns(number)
            assert len(await anna.front.backends(1)) == 1


class TestBounds:
    async def test_a_start_beyond_a_persons_bound_says_so_and_one_after_an_end_works(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, pool={"per_person": 1})) as host:
            first, second = await host.seat(), await host.seat()
            first.say("talk")
            await first.front.turns(1)
            second.say("talk")
            (end,) = await second.front.turns(1)
            assert (end.status, end.reason.split(",")[0]) == ("failed", "1 agent runs for you already")
            first.do("/stop")
            await first.front.until(lambda: first.front.of(BackendEnded), "it has ended")
            second.say("talk")
            assert (await second.front.turns(2))[1].status == "completed"

    async def test_the_whole_service_has_a_bound_too(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, pool={"backends": 1})) as host:
            anna, ben = await host.seat("anna"), await host.seat("ben")
            anna.say("talk")
            await anna.front.turns(1)
            ben.say("talk")
            assert "all 1 agents that this service may run are taken" in (await ben.front.turns(1))[0].reason

    async def test_what_is_just_ending_is_waited_for(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, pool={"per_person": 1})) as host:
            anna = await host.seat()
            anna.say("work")
            await anna.front.until(lambda: anna.front.text, "it works")
            anna.do("/new")
            anna.say("talk")
            ends = await anna.front.turns(2)
            assert [end.status for end in ends] == ["interrupted", "completed"]
            assert anna.front.ends == ["turn_ended", "backend_ended", "turn_ended"]


class TestConversations:
    async def test_new_begins_another_and_resume_goes_back(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("where am I")
            await anna.front.turns(1)
            first = anna.front.text
            anna.do("/new")
            anna.say("where now")
            await anna.front.turns(2)
            assert anna.front.text.removeprefix(first).split()[0] != first.split()[0]
            anna.do("/resume")
            listed = await anna.front.hears("/resume NUMBER")
            assert [line.split()[-3:] for line in listed.splitlines()[1:2]] == [["where", "am", "I"]]
            anna.do("/resume 2")
            await anna.front.hears("you are back in")
            anna.say("where")
            await anna.front.turns(3)
            assert anna.front.of(Text)[-1].delta.split()[0] == first.split()[0], (
                "the engine's thread is the first one's"
            )

    async def test_the_engines_own_id_which_is_shown_first_names_it_too_for_its_person(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            shown = anna.front.of(BackendStarted)[0].conversation
            row = anna.seat.conversation.ref.id
            assert shown
            assert shown != row
            again = await host.seat(resume=shown)
            assert again.seat.conversation.ref.id == row
            anna.do("/new")
            anna.do(f"/resume {shown}")
            await anna.front.hears("you are back in")
            with pytest.raises(LookupError, match="there is no conversation"):
                await host.seat("ben", resume=shown)

    async def test_the_report_of_a_chat_that_was_left_says_so(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            anna.seat.leave()
            await anna.front.until(lambda: anna.front.closed_with is not None, "it is closed")
            found = records.endings(tmp_path / "state", None, survivors=False, limit=5)
            assert [row.why for row in found.reports] == ["the chat was left"]

    async def test_two_seats_at_one_conversation_share_one_backend(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            one = await host.seat()
            one.say("where")
            await one.front.turns(1)
            two = await host.seat(resume="last")
            assert two.seat.conversation is one.seat.conversation
            two.say("where")
            await one.front.turns(2)
            assert host.service.pool.count == 1
            two.seat.leave()
            await two.front.until(lambda: two.front.closed_with is not None, "it is closed")
            assert host.service.pool.count == 1, "somebody else is there"

    async def test_another_persons_conversation_cannot_be_had(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat("anna")
            anna.say("talk")
            await anna.front.turns(1)
            with pytest.raises(LookupError, match="there is no conversation"):
                await host.seat("ben", resume=anna.seat.conversation.ref.id)
            ben = await host.seat("ben")
            ben.do(f"/resume {anna.seat.conversation.ref.id}")
            await ben.front.hears("there is no conversation")

    async def test_a_conversation_that_another_program_holds_is_not_taken(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        async with hosting(config) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            async with hosting(config) as other:
                with pytest.raises(LookupError, match="open in another program"):
                    await other.seat("anna", resume="last")

    async def test_a_lost_connection_ends_nothing_and_the_conversation_can_be_taken_up(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("ask")
            approval = await anna.front.asked()
            anna.seat.detach()
            back = await host.seat(resume="last")
            assert (await back.front.asked()).approval_id == approval.approval_id
            back.seat.answer(approval.approval_id, Answer("accept"))
            assert (await back.front.turns(1))[0].status == "completed"

    async def test_where_nobody_can_be_asked_another_s_approval_is_left_open(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("ask")
            approval = await anna.front.asked()
            pipe = await host.seat(resume="last")
            pipe.seat.decline((await pipe.front.asked()).approval_id)
            assert anna.seat.conversation.approvals, "it is asked where the turn was begun"
            anna.seat.answer(approval.approval_id, Answer("accept"))
            assert (await anna.front.turns(1))[0].status == "completed"
            await pipe.front.turns(1)
            pipe.say("ask")
            again = await pipe.front.until(lambda: pipe.front.of(ApprovalRequested)[1:], "permission requested again")
            pipe.seat.decline(again[0].approval_id)
            await pipe.front.turns(2)
            assert [end.decision for end in pipe.front.of(ApprovalClosed)] == ["accept", "decline"]

    async def test_two_who_take_up_one_conversation_at_once_get_one_and_the_same(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("where")
            await anna.front.turns(1)
            anna.seat.leave()
            await anna.front.until(lambda: anna.front.closed_with == "", "it is closed")
            seats = await asyncio.gather(*(host.seat(resume="last") for _ in range(5)))
            assert len({id(one.seat.conversation) for one in seats}) == 1

    async def test_one_that_is_just_ending_is_taken_up_when_it_has(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("stray")
            await anna.front.until(lambda: anna.front.text, "it runs")
            anna.seat.leave()
            back = await host.seat(resume=anna.seat.conversation.ref.id)
            assert anna.front.of(BackendEnded), "there is no second backend on one conversation"
            back.say("where")
            assert (await back.front.turns(1))[0].status == "completed"

    async def test_what_is_sent_while_another_is_taken_up_is_not_lost_without_a_word(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            for number in (1, 2):
                anna.say("where")
                await anna.front.turns(number)
                anna.do("/new")
            anna.say("talk")
            await anna.front.turns(3)
            anna.do("/resume 2")
            anna.say("talk")
            await anna.front.hears("you are back in")
            await anna.front.until(
                lambda: len(anna.front.of(TurnEnded)) == 4 or "not sent: talk" in anna.front.told,
                "it is held, or told of",
            )

    async def places(self, host: Host) -> tuple[Place, Place]:
        """A seat whose conversation takes its time to end, and one at another conversation of the same person."""
        anna, other = await host.seat(), await host.seat()
        other.say("where")
        await other.front.turns(1)
        anna.say("stray")
        await anna.front.until(lambda: anna.front.text, "it runs")
        return anna, other

    async def test_what_is_taken_up_stays_although_its_other_follower_leaves_meanwhile(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna, other = await self.places(host)
            anna.do(f"/resume {other.seat.conversation.ref.id}")
            await until(lambda: anna.seat.conversation.over, 5, "the one before is being ended")
            other.seat.leave()
            await anna.front.hears("you are back in")
            anna.say("where")
            assert (await anna.front.turns(2))[1].status == "completed"

    @pytest.mark.parametrize("then", ["new", "detach"])
    @pytest.mark.slow
    async def test_who_goes_on_elsewhere_while_one_is_taken_up_does_not_follow_both(
        self, then: str, tmp_path: Path
    ) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna, other = await self.places(host)
            anna.do(f"/resume {other.seat.conversation.ref.id}")
            await until(lambda: anna.seat.conversation.over, 5, "the one before is being ended")
            if then == "new":
                anna.do("/new")
            else:
                anna.seat.detach()
            await anna.seat.settle(20)
            assert [len(one.audience) for one in host.service.live] == ([1, 1] if then == "new" else [1])
            assert len(other.seat.conversation.audience) == 1

    async def test_of_two_that_are_taken_up_at_once_the_second_is_gone_on_with(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna, second = await self.places(host)
            third = await host.seat()
            third.say("where")
            await third.front.turns(1)
            for one in (second, third):
                anna.do(f"/resume {one.seat.conversation.ref.id}")
            await anna.seat.settle(20)
            assert anna.seat.conversation is third.seat.conversation
            assert [len(one.seat.conversation.audience) for one in (second, third)] == [1, 2]

    async def test_ending_a_persons_agents_stops_one_that_is_to_start_too(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("stray")
            await anna.front.until(lambda: anna.front.text, "it runs")
            anna.do("/new")
            anna.say("talk")
            await until(lambda: anna.seat.conversation.began, 5, "it waits for the end of the one before")
            await host.service.end_person("anna")
            assert [end.status for end in await anna.front.turns(2)] == ["interrupted", "interrupted"]
            assert len(anna.front.of(BackendStarted)) == 1


class TestFaults:
    @pytest.mark.slow
    async def test_an_engine_that_survives_keeps_its_conversation_and_its_place(
        self, stage: Stage, tmp_path: Path
    ) -> None:
        try:
            with freezer(stage) as ice:
                await self.survive(ice, tmp_path)
        except NoFreezerError as error:
            pytest.skip(f"nothing here can keep a process from dying: {error}")

    async def survive(self, ice: Freezer, folder: Path) -> None:
        config = configured(folder, ladder={"goodbye": 0.2, "grace": 0.1, "kill": 0.2}, pool={"per_person": 2})
        async with hosting(config) as host:
            anna = await host.seat()
            anna.say("where")
            await anna.front.turns(1)
            (started,) = await anna.front.backends(1)
            ice.freeze(started.pid)
            anna.do("/stop")
            await anna.front.until(lambda: anna.front.of(BackendEnded), "its ending is over")
            assert anna.front.of(BackendEnded)[0].report.verdict == "survivors"
            anna.say("where")
            assert "could not be ended, and lives: pid" in (await anna.front.turns(2))[1].reason
            anna.do("/new")
            anna.say("where")
            assert (await anna.front.turns(3))[2].status == "completed"
            assert host.service.pool.count == 2
            ice.thaw()
            await until(lambda: not alive(started.pid), 10, "its reaper has ended it")
            anna.do("/resume 2")
            await anna.front.hears("you are back in")
            anna.say("where")
            assert (await anna.front.turns(4))[3].status == "completed"
            assert host.service.pool.count == 1

    async def test_what_reapers_wrote_is_removed_once_the_store_has_it(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna, ben = await host.seat("anna"), await host.seat("ben")
            for one in (anna, ben):
                one.say("talk")
                await one.front.turns(1)
            anna.do("/stop")
            await anna.front.until(lambda: anna.front.of(BackendEnded), "its ending is over")
        assert not list((tmp_path / "state" / "reports").iterdir())
        found = records.endings(tmp_path / "state")
        assert [one.report.verdict for one in found.reports] == ["proven_empty"] * 2
        assert [one.pid > 0 and one.job_id == one.report.job_id for one in found.reports] == [True, True]

    async def test_a_backend_that_does_not_start_leaves_no_record_and_no_report(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path), "unborn") as host:
            anna = await host.seat()
            anna.say("talk")
            assert (await anna.front.turns(1))[0].status == "failed"
        assert not list((tmp_path / "state" / "reports").iterdir())
        assert records.endings(tmp_path / "state") == records.Endings()

    async def test_what_is_amiss_with_the_host_is_told_once_and_to_the_operator(self, tmp_path: Path) -> None:
        with capture_logs() as logged:
            async with hosting(configured(tmp_path), "bare", own=False) as host:
                for name in ("anna", "ben"):
                    one = await host.seat(name)
                    one.say("talk")
                    await one.front.turns(1)
                    one.do("/restart")
                    await one.front.backends(2)
                    one.say("talk")
                    await one.front.turns(2)
                    told = [notice.message for notice in one.front.of(Notice)]
                    assert any("unknown key in config.toml" in notice for notice in told), "that is the person's matter"
                    assert not any("bubblewrap" in notice for notice in told)
        notices = [line["notice"] for line in logged if line["event"] == "a notice for the operator"]
        assert notices == ["codex could not find bubblewrap on PATH"]

    async def test_at_a_persons_own_terminal_the_person_is_the_operator(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path), "bare") as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            assert await anna.front.hears("bubblewrap")

    async def test_reports_of_before_are_taken_in_or_removed(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        first = await Store.open(state)
        conversation = (await first.new_conversation("anna", "codex", "")).id
        killed = await first.new_backend(conversation, "anna", "daniel", "codex", "7-1a")
        known = await first.new_backend(conversation, "anna", "daniel", "codex", "7-2b")
        report = Report("proven_empty", "no_children", 0.1, job_id="7-1a", ended_at=5.0)
        await first.backend_ended(known, report, [], "/new")
        await first.aclose()
        (state / "reports").mkdir()
        for job in ("7-1a", "7-2b", "7-3c"):  # killed before it ran, written once more, and of no record
            report.write(str(state / "reports" / f"{job}.json"))
        (unfinished := state / "reports" / ".corral-report-0").touch()
        os.utime(unfinished, (0, 0))
        async with hosting(configured(tmp_path)):
            assert not list((state / "reports").iterdir())
            (_, taken) = sorted(records.endings(state).reports, key=lambda one: one.started, reverse=True)
            assert (taken.id, taken.why, taken.verdict) == (killed, "the service died", "proven_empty")

    async def test_at_the_end_each_conversation_is_let_go_of_once_and_not_after_the_store_was_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released: list[str] = []
        async with hosting(configured(tmp_path)) as host:
            release = host.store.release

            async def counted(conversation: str) -> None:
                released.append(conversation)
                await release(conversation)

            monkeypatch.setattr(host.store, "release", counted)
            seats = [await host.seat("anna"), await host.seat("ben")]
            for one in seats:
                one.say("talk")
                await one.front.turns(1)
            kept = [one.seat.conversation.ref.id for one in seats]
        assert sorted(released) == sorted(kept)

    async def test_a_state_folder_that_fails_fails_the_turn_and_not_the_conversation(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            (tmp_path / "state" / "reports").write_text("in the way")
            anna.say("talk")
            (end,) = await anna.front.turns(1)
            assert (end.status, "cannot be written" in end.reason) == ("failed", True)
            (tmp_path / "state" / "reports").unlink()
            anna.say("talk")
            assert (await anna.front.turns(2))[1].status == "completed"

    async def test_a_flood_of_commands_is_cut_off(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            for _ in range(1000):
                anna.do("/status")
            await anna.front.hears("not done, 20 commands are at work")
            await anna.front.until(lambda: len(anna.front.of(Reply)) == 20, "those at work are answered")
            anna.do("/ps")
            await anna.front.until(lambda: len(anna.front.of(Reply)) == 21, "and the next is")

    async def test_a_key_that_is_held_down_piles_nothing_up(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            before = len(asyncio.all_tasks())
            for _ in range(1000):
                anna.seat.interrupt()
                anna.seat.hurry()
            assert len(asyncio.all_tasks()) <= before + 20
            anna.say("talk")
            await anna.front.turns(1)
            anna.say("silent")
            await anna.front.until(lambda: anna.seat.conversation.began, "it is taken up")
            anna.seat.interrupt()
            assert (await anna.front.turns(2))[1].status == "interrupted"


class TestCommands:
    async def told(self, anna: Place, line: str, words: str) -> str:
        anna.do(line)
        return await anna.front.hears(words)

    async def test_control_never_waits_behind_a_turn(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("silent")
            await anna.front.until(lambda: anna.front.of(BackendEnded) or anna.seat.conversation.backend, "it runs")
            anna.say("talk")
            status = await self.told(anna, "/status", "a turn runs for")
            assert "1 message waits" in status
            assert "scripted_peer.py" in await self.told(anna, "/ps", "scripted_peer.py")
            anna.do("/stop")
            await anna.front.hears("not sent: talk")
            assert (await anna.front.turns(1))[0].status == "interrupted"
            await anna.front.until(lambda: anna.front.of(BackendEnded), "it has ended")

    async def test_status_tells_programs_the_same(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("leave")
            await anna.front.turns(1)
            anna.do("/status")
            await anna.front.hears("left running in the background")
            data = anna.front.of(Reply)[-1].data
            assert data["backend"]["processes"] >= 2
            assert [one["command"] for one in data["background"]] == ["sleep 1000"]
            anna.do("/restart")
            await anna.front.hears("had left running was ended too: sleep")
            assert not alive(data["background"][0]["pid"])
            await anna.front.backends(2)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("/nonsense", "unknown command /nonsense"),
            ("/approve", "nothing is asked"),
            ("/deny", "nothing is asked"),
            ("/approve never", "say /approve"),
            ("/engine gemini", "unknown engine 'gemini': choose codex, claude"),
            ("/engine", "engine: codex"),
            ("/model", "model: the agent's own choice"),
            ("/effort", "effort: the agent's own choice"),
            ("/workspace /etc", "is in none of your workspaces"),
            ("/workspace", "workspace: "),
            ("/workspace ~root/x", "~root is not a folder: write ~/FOLDER"),
            ("/workspace ~/..", "is in none of your workspaces"),
            (f"/model {'x' * 5000}", "not a name"),
            ("/resume nothing", "there is no conversation 'nothing'"),
            ("/resume", "there are no earlier conversations"),
            ("/usage", "nothing was used"),
            ("/usage much", "1 to 9999 of them, and not 'much'"),
            (f"/usage {'9' * 5000}", "1 to 9999 of them"),
            (f"/resume {'9' * 5000}", "there is no conversation '999"),
            ("/ps", "no agent runs"),
            ("/status", "no agent runs; the next message starts one"),
            ("/steer", "say what"),
            ("/steer more", "no turn runs"),
            ("/stop", "nothing is running"),
            ("/HELP", "/workspace [NAME|PATH]"),
        ],
    )
    async def test_commands_without_a_backend(self, line: str, words: str, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            await self.told(anna, line, words)
            await anna.front.until(lambda: anna.front.idles, "it is idle again")

    @pytest.mark.parametrize("line", ["/resume", "/resume 1", "/usage", "/status"])
    async def test_a_store_that_cannot_be_read_is_not_told_as_nothing_there(self, line: str, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            make_unwritable(tmp_path)
            told = await self.told(anna, line, "cannot be read")
            assert "corral.db: no such table" in told
            assert not [one for one in anna.front.told if "fault in corral" in one]
            await anna.front.until(lambda: anna.front.idles, "it is idle again")

    async def test_a_seat_at_what_cannot_be_read_is_refused_or_told_to_be_a_new_one(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            make_unwritable(tmp_path)
            for resume in ("last", "0123456789"):
                with pytest.raises(LookupError, match="earlier conversations cannot be read"):
                    await host.seat(resume=resume)
            anna = await host.seat(channel="telegram")
            assert "that was held here cannot be read" in await anna.front.hears("this is a new one")

    async def test_a_line_with_two_slashes_goes_to_the_engine(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.do("//compact")
            assert (await anna.front.turns(1))[0].status == "completed"

    async def test_approve_and_deny(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            for line, said in (("/approve", "accept"), ("/deny", "decline")):
                before = len(anna.front.of(TurnEnded))
                anna.say("ask")
                await anna.front.until(lambda: anna.seat.conversation.approvals, "permission requested")
                anna.do(line)
                await anna.front.turns(before + 1)
                assert anna.front.text.endswith(said)

    async def test_a_turn_that_ends_without_a_word_says_so(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("wordless")
            await anna.front.turns(1)
            assert anna.front.of(Notice) == [Notice(WORDLESS)]
            anna.say("talk")
            await anna.front.turns(2)
            assert anna.front.of(Notice) == [Notice(WORDLESS)]

    async def test_another_engine_is_another_conversation(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            anna.do("/engine claude")
            anna.say("talk")
            await anna.front.turns(2)
            assert [one.engine for one in anna.front.of(type(anna.front.events[0]))] == ["codex", "claude"]

    async def test_steer_is_folded_into_the_turn(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("work")
            await anna.front.until(lambda: anna.front.text, "it works")
            await self.told(anna, "/steer and this", "it was folded into the turn")


class TestRecycling:
    async def test_idle_ends_the_backend_and_keeps_the_conversation(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, recycle={"idle": "200ms"})) as host:
            anna = await host.seat()
            anna.say("where")
            await anna.front.turns(1)
            await anna.front.until(lambda: anna.front.of(BackendEnded), "it was ended for idleness")
            anna.say("where")
            await anna.front.turns(2)
            threads = [event.delta.split()[0] for event in anna.front.of(Text)]
            assert threads[0] == threads[1]

    async def test_what_is_left_in_the_background_keeps_it(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path, recycle={"idle": "50ms"})) as host:
            anna = await host.seat()
            anna.say("leave")
            await anna.front.turns(1)
            backend = anna.seat.conversation.backend
            assert backend is not None
            for looks in range(5):  # meanwhile the recycler looks too
                anna.do("/status")
                await anna.front.until(lambda looks=looks: len(anna.front.of(Reply)) > looks, "another look")
            assert anna.seat.conversation.backend is backend
            os.kill(next(one.pid for one in await backend.background()), 9)
            await anna.front.until(lambda: anna.front.of(BackendEnded), "then it is ended for idleness")


class TestReload:
    async def test_a_running_turn_goes_on_and_the_next_has_the_new_settings(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        async with hosting(config) as host:
            anna = await host.seat()
            anna.say("ask")
            approval = await anna.front.asked()
            changed = tuple(one.model_copy(update={"env": {"NEW": "1"}}) for one in config.people)
            await host.service.reload(config.model_copy(update={"people": changed}))
            anna.seat.answer(approval.approval_id, Answer("accept"))
            assert (await anna.front.turns(1))[0].status == "completed"
            anna.say("talk")
            await anna.front.turns(2)
            assert len(await anna.front.backends(2)) == 2

    async def test_who_is_taken_out_is_heard_no_more(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        async with hosting(config) as host:
            anna, ben = await host.seat("anna"), await host.seat("ben")
            ben.say("talk")
            await ben.front.turns(1)
            await host.service.reload(config.model_copy(update={"people": config.people[:1]}))
            assert ben.front.closed_with == "you are not known here any more"
            ben.say("talk")
            with pytest.raises(AccessError):
                await host.seat("ben")
            anna.say("talk")
            await anna.front.turns(1)
            assert len(ben.front.of(TurnEnded)) == 1

    async def test_who_is_taken_out_decides_nothing_any_more(self, tmp_path: Path) -> None:
        config = configured(tmp_path)
        async with hosting(config) as host:
            ben = await host.seat("ben")
            ben.say("ask")
            approval = await ben.front.asked()
            conversation = ben.seat.conversation
            await host.service.reload(config.model_copy(update={"people": config.people[:1]}))
            ben.seat.answer(approval.approval_id, Answer("accept"))
            ben.seat.interrupt()
            assert conversation.backend is not None
            assert conversation.answer(approval.approval_id, Answer("decline"), "nobody"), "it waits still"


class TestShutdown:
    @pytest.mark.slow
    async def test_an_ending_that_was_under_way_counts_and_is_waited_for(self, tmp_path: Path) -> None:
        config = configured(tmp_path, recycle={"idle": "500ms"})
        async with hosting(config) as host:
            anna, ben = await host.seat("anna"), await host.seat("ben")
            anna.say("stray")
            await anna.front.until(lambda: anna.front.text, "it runs")
            ben.say("where")
            await ben.front.turns(1)
            os.kill((await ben.front.backends(1))[0].pid, signal.SIGSTOP)  # it takes its time to end
            backend = ben.seat.conversation.backend
            await until(lambda: backend and backend.gone and not ben.seat.conversation.backend, 20, "it is recycled")
            anna.do("/new")
            summary = await host.service.shutdown()
            assert (summary.ended, summary.verdicts) == (2, {"proven_empty": 2})
            assert [one.front.ends[-1] for one in (anna, ben)] == ["backend_ended"] * 2
            assert all([await host.store.last_report(name) for name in ("anna", "ben")])

    @pytest.mark.slow
    async def test_it_is_bounded_although_a_reaper_was_stopped(self, tmp_path: Path) -> None:
        config = configured(tmp_path, service={"shutdown": "1s"}, ladder={"goodbye": 0.1, "grace": 0.1, "kill": 0.5})
        async with hosting(config) as host:
            anna = await host.seat()
            anna.say("where")
            await anna.front.turns(1)
            backend = anna.seat.conversation.backend
            assert isinstance(backend, BackendProcess)
            os.kill(backend.job.reaper_pid, signal.SIGSTOP)
            try:
                summary = await host.service.shutdown()
            finally:
                with suppress(ProcessLookupError):
                    os.kill(backend.job.reaper_pid, signal.SIGCONT)
            await backend.job.ended()
            assert (summary.unfinished, summary.seconds < 4) == (1, True), summary

    @pytest.mark.slow
    async def test_it_is_bounded_as_a_whole_however_stubborn_they_are(self, tmp_path: Path) -> None:
        config = configured(
            tmp_path, service={"shutdown": "4s"}, ladder={"goodbye": "30s", "grace": "60s"}, pool={"per_person": 8}
        )
        async with hosting(config, "stubborn") as host:
            seats = [await host.seat() for _ in range(6)]
            for one in seats:
                one.say("work")
            for one in seats:
                await one.front.until(lambda one=one: one.front.text, "it works")
            pids = [(await one.front.backends(1))[0].pid for one in seats]
            summary = await host.service.shutdown()
            assert summary.verdicts["proven_empty"] == 6
            assert summary.seconds < 4.5
            assert not any(alive(pid) for pid in pids)
            assert {one.front.closed_with for one in seats} == {"the service is stopping"}

    async def test_nobody_comes_in_while_it_stops(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            await host.service.shutdown()
            with pytest.raises(AccessError):
                await host.seat()


async def test_leaving_ends_the_backend(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.say("stray")
        await anna.front.until(lambda: anna.front.text, "it runs")
        anna.seat.leave()
        await anna.front.until(lambda: anna.front.closed_with == "", "it is closed")
        assert anna.front.ends == ["turn_ended", "backend_ended"]
        await until(lambda: host.service.pool.count == 0, 5, "its slot is free")
        assert not host.service.live


async def test_finishing_leaves_after_the_last_turn(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.say("talk")
        anna.say("talk")
        anna.seat.finish()
        await anna.front.until(lambda: anna.front.closed_with == "", "it is closed")
        assert anna.front.ends == ["turn_ended", "turn_ended", "backend_ended"]


@pytest.mark.slow
async def test_a_hundred_seats_at_once(tmp_path: Path) -> None:
    config = configured(tmp_path, pool={"per_person": 40, "backends": 40})
    async with hosting(config) as host:
        seats = await asyncio.gather(*(host.seat() for _ in range(30)))
        for one in seats:
            one.say("where")
        await asyncio.gather(*(one.front.turns(1) for one in seats))
        assert len({one.front.text for one in seats}) == 30


class TestWhoHoldsAConversation:
    async def test_a_conversation_is_not_resumed_where_its_holder_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fails(_: str) -> bool:
            raise StoreError("the disk does not answer")

        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            earlier = anna.seat.conversation.ref.id
            anna.do("/new")
            await anna.front.hears("begins a new conversation")
            monkeypatch.setattr(host.store, "claim", fails)
            anna.do(f"/resume {earlier}")
            await anna.front.hears("cannot be resumed")
            with pytest.raises(LookupError, match="whether another program has it open cannot be read"):
                await host.seat(resume=earlier)
            anna.say("talk")
            await anna.front.turns(2)
            assert not anna.seat.conversation.ref.id, "what this process does not hold stays unknown"

    async def test_a_conversation_that_is_resumed_while_it_is_forgotten_lives(self, tmp_path: Path) -> None:
        async with hosting(configured(tmp_path)) as host:
            anna = await host.seat()
            anna.say("talk")
            await anna.front.turns(1)
            conversation = anna.seat.conversation
            anna.do("/stop")
            await anna.front.until(lambda: anna.front.of(BackendEnded), "the agent is ended")
            await anna.front.until(lambda: not conversation.busy, "nothing is to be done")
            row = await host.store.conversation(conversation.ref.id)
            assert row is not None
            anna.seat.detach()  # the task that forgets the conversation is made, and has not begun
            resuming = await host.service.take_up(row)
            assert resuming is conversation, "nothing was awaited in between"
            place = Watcher()
            conversation.audience.join(place)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not conversation.over
            conversation.send(Input("talk"), place)
            assert [end.status for end in await place.turns(1)] == ["completed"]
            conversation.audience.quit(place)


class TestWhatHangs:
    @pytest.mark.slow
    async def test_processes_that_cannot_be_looked_at_are_no_reason_to_wait(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hangs = threading.Event()

        class Table:
            """A process table whose command lines lie on a disk that does not answer."""

            def command(self, _: int) -> str:
                hangs.wait(30)
                return ""

        monkeypatch.setattr(processes, "host_table", Table)
        monkeypatch.setattr(service, "LOOK_TIMEOUT", 0.5)
        try:
            async with hosting(configured(tmp_path)) as host:
                anna, ben = await host.seat(), await host.seat("ben")
                anna.say("talk")
                await anna.front.turns(1)
                anna.do("/ps")
                ben.say("talk")
                await ben.front.turns(1)
                await anna.front.hears("the agent's processes could not be looked at")
                anna.do("/status")
                await anna.front.hears("agent up for")
                began = time.monotonic()
            assert time.monotonic() - began < 4
        finally:
            hangs.set()

    async def test_an_agent_whose_background_cannot_be_seen_is_not_ended_for_idleness(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hangs = threading.Event()
        monkeypatch.setattr(engine_process, "LOOK_TIMEOUT", 0.2)
        try:
            async with hosting(configured(tmp_path)) as host:
                anna = await host.seat()
                anna.say("talk")
                await anna.front.turns(1)
                backend = anna.seat.conversation.backend
                assert isinstance(backend, BackendProcess)
                monkeypatch.setattr(backend.job, "tree", lambda: hangs.wait(30))
                assert await anna.seat.conversation.recycle(time.monotonic() + 10_000) == ""
                assert anna.seat.conversation.backend is backend
        finally:
            hangs.set()
