"""The doctor itself: bounded, and never ended by a check of its own; and what checks read, on files of the tests."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

from corral.config import Config, Person
from corral.install import doctor
from corral.install.attempt import attempt
from corral.install.checks import rights
from corral.install.doctor import Check, commands_to_fix, run
from corral.install.finding import Finding, error, ok
from corral.install.programs import Program
from corral.install.subjects import Subjects
from corral.terminal.render import console
from tests.harness.service import Service


class TestTheExamination:
    def test_a_config_that_cannot_be_used_is_its_faults_and_the_machine_is_looked_at_all_the_same(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "corral.toml"
        file.write_text("[service]\nengin = 1\n")
        file.chmod(0o600)
        found = doctor.examine(file)
        faults = [one for one in found if one.label == "config"]
        assert len(faults) >= 2, "the unknown key, and that there are no people"
        assert {one.status for one in faults} == {"error"}
        assert "subreaper" in {one.label for one in found}

    def test_a_check_that_fails_is_its_own_error(self) -> None:
        def fails() -> list[Finding]:
            raise KeyError("x")

        found = run([Check("a", fails), Check("b", lambda: [ok("b", "fine")])])
        assert [(one.label, one.status) for one in found] == [("a", "error"), ("b", "ok")]
        assert "KeyError('x')" in found[0].detail

    def test_a_check_that_hangs_does_not_hold_up_the_others_and_is_bounded(self) -> None:
        never = threading.Event()

        def hangs() -> list[Finding]:
            never.wait(60)
            return []

        began = time.monotonic()
        found = run([Check("hangs", hangs), *(Check(f"{n}", lambda: [ok("x", "")]) for n in range(9))], seconds=0.3)
        never.set()
        assert time.monotonic() - began < 5
        assert found[0].detail == "there was no answer within 0.3 s"
        assert [one.status for one in found[1:]] == ["ok"] * 9

    def test_each_command_that_mends_is_named_once(self) -> None:
        both = [error("a", "x", "", "one", "two"), error("b", "y", "", "two"), ok("c", "z")]
        assert commands_to_fix(both) == ["# a: x", "one", "two"]

    def test_what_others_called_a_process_stays_in_its_line(self) -> None:
        name = "pid 7: codex\x1b]0;title\x07\r\nsudo rm -rf /\u202e\x9b2J"
        found = [error("orphans", name, name, "corral sweep")]
        assert commands_to_fix(found) == ["# orphans: pid 7: codex sudo rm -rf /2J", "corral sweep"]
        out = io.StringIO()
        console(out).print(doctor.shown(found))
        assert len(out.getvalue().splitlines()) == 3
        assert not set("\x1b\x07\r\u202e\x9b") & set(out.getvalue())

    def test_no_rule_is_advised_by_which_the_service_could_end_what_is_roots(self) -> None:
        config = Config(people=(Person(name="a", os_user="root"),))
        subjects = Subjects(config, "games", "/usr/bin/sudo", {"root": [config.people[0]]})
        assert [one.status for one in rights.kill(subjects, "root")] == ["skip"]


def test_an_engine_that_hangs_and_leaves_something_is_ended(service: Service, tmp_path: Path) -> None:
    program = tmp_path / "codex"
    program.write_text(f"#!/bin/sh\ntrap '' TERM\nsetsid sleep 1003.{os.getpid()} &\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)
    config = Config.model_validate(
        {"people": [{"name": "a"}], "ladder": {"grace": "100ms"}, "service": {"state_dir": str(tmp_path)}}
    )
    tried = attempt(config, config.people[0], Program("codex", (str(program),)), ["--version"], seconds=1.0)
    assert tried.status is None
    assert tried.report is not None
    assert tried.report.verdict in ("proven_empty", "empty_by_scan")
    assert list(tmp_path.iterdir()) == [program], "nothing was written to the service's state"


class TestPam:
    def moves(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> bool:
        for name, text in files.items():
            (folder / name.replace("_", "-")).write_text(text)
        monkeypatch.setattr(rights, "_PAM", folder)
        lines = list(rights._session_lines("sudo"))
        return any("pam_systemd.so" in line for line in lines)

    @pytest.mark.parametrize("include", ["@include common", "session include common", "session  substack common # x"])
    def test_it_follows_every_kind_of_include(
        self, include: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.moves(tmp_path, monkeypatch, sudo=include, common="-session optional pam_systemd.so\n")

    def test_not_what_is_a_comment_or_of_another_kind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "# session optional pam_systemd.so\nauth include common\nsession include sudo\n"
        assert not self.moves(tmp_path, monkeypatch, sudo=text, common="session optional pam_systemd.so")
