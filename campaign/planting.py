"""Who is in a world before its tree: strangers of several accounts, and the supervisor with its own children."""

import json
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from campaign import strangers, supervisor
from campaign.recycler import RECYCLER, Recycler
from campaign.scenario import FULL_DISKS
from campaign.world import Planted, World, known
from tests.harness import namespace


@dataclass
class Planting:
    """Makes the world."""

    world: World

    def raise_world(self) -> None:
        scenario = self.world.scenario
        options = "hidepid=2" if scenario.fault == "hidepid" else ""
        self.world.hidden = bool(options)
        namespace.proc(options)
        namespace.tmpfs(self.world.folder, "0755")
        self.world.state_dir.mkdir(mode=0o700)
        if scenario.fault in FULL_DISKS:
            namespace.tmpfs(self.world.state_dir, "0700", "48k")
        os.chown(self.world.state_dir, self.world.slot.service.uid, self.world.slot.service.gid)
        for name in ("records", "tree"):
            (self.world.folder / name).mkdir()
            (self.world.folder / name).chmod(0o777)
        self.world.status.touch()
        self.world.status.chmod(0o666)
        self.world.program.write_text('#!/bin/sh\nexec "$@"\n')
        self.world.program.chmod(0o755)
        if scenario.fault in {"slow sudo", "hung sudo"}:
            namespace.bind(self.world.slot.slow_pam, Path("/etc/pam.d/sudo"))
        if scenario.fault == "small pid space" and self.world.slot.own_pid_max:
            Path("/proc/sys/kernel/pid_max").write_text(str(self.world.dice.randrange(420, 600)))
        self.world.observer.staff.add(known(1))
        self._plant_siblings()

    def _plant_siblings(self) -> None:
        accounts = {
            "sibling": self.world.slot.service,
            "person's": self.world.slot.person,
            "third account's": self.world.slot.third,
        }
        for name, account in accounts.items():
            if name in self.world.scenario.strangers:
                self._plant(name, partial(strangers.begin_session_as, account.uid, account.gid))
        if self.world.scenario.fault == "small pid space":
            for index, account in enumerate((self.world.slot.service, self.world.slot.person)):
                self._plant_forker(f"forker {index}", account.uid, account.gid)

    def _plant(self, name: str, prepare: Callable[[], object]) -> None:
        record = self.world.record(name)
        pid = strangers.fork_stranger(str(record), str(self.world.leave), prepare)
        self.world.know(Planted(name, known(pid), record))

    def _plant_forker(self, name: str, uid: int, gid: int) -> None:
        record = self.world.record(name)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                strangers.become(uid, gid)
                strangers.fork_quickly(str(record), str(self.world.stop), self.world.scenario.seed)
            finally:
                os._exit(97)
        planted = Planted(name, known(pid), record)
        self.world.forkers.append(planted)
        self.world.know(planted)

    def start_recycler(self) -> None:
        """Have the pids of members that die given to strangers."""
        if self.world.scenario.fault != "pid reuse":
            return
        record = self.world.record(RECYCLER)
        accounts = tuple((account.uid, account.gid) for account in (self.world.slot.service, self.world.slot.person))
        world = self.world
        pid = os.fork()
        if pid == 0:
            try:
                Recycler(world.observer, world.supervisor, accounts, str(record), world.dice).run(str(world.stop))
            finally:
                os._exit(97)
        planted = Planted(RECYCLER, known(pid), record)
        self.world.forkers.append(planted)
        self.world.know(planted)

    def start_supervisor(self) -> None:
        own, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                own.close()
                os.setsid()
                strangers.become(self.world.slot.service.uid, self.world.slot.service.gid)
                self._be_supervisor(theirs)
            except BaseException:  # noqa: BLE001 - a child of the observer: nothing of it may go on as the observer
                traceback.print_exc()
            finally:
                os._exit(96)
        theirs.close()
        self.world.wire = own
        own.setblocking(False)
        self.world.supervisor = known(pid)
        self.world.observer.staff.add(self.world.supervisor)
        self.world.await_event("ready", 20)
        for name, child in self.world.event("ready")["children"].items():
            self.world.know(Planted(name, known(child), self.world.record(name), of_supervisor=True))
        if (record := self.world.record("orphan")).exists():
            self.world.know(Planted("orphan", known(int(record.read_text().split()[1])), record))
        if self.world.scenario.other_job:
            self._start_other()

    def _be_supervisor(self, wire: socket.socket) -> None:
        os.chdir("/")
        os.environ.clear()
        os.environ.update(self.world.slot.env)
        leave = str(self.world.leave)
        children: dict[str, int] = {}
        prepares: dict[str, Callable[[], object]] = {
            "child": lambda: None,
            "child with a limit": strangers.limited,
            "child in a session": os.setsid,
        }
        for name, prepare in prepares.items():
            if name in self.world.scenario.strangers:
                children[name] = strangers.fork_stranger(str(self.world.record(name)), leave, prepare)
        if "orphan" in self.world.scenario.strangers:
            strangers.fork_orphan(str(self.world.record("orphan")), leave, str(self.world.folder / "orphan"))
        wire.sendall(json.dumps({"event": "ready", "children": children}).encode() + b"\n")
        supervisor.supervise(wire, children, self.world.slot.python)

    def _start_other(self) -> None:
        program = str(self.world.slot.campaign / "strangers.py")
        argv = [self.world.slot.python, "-I", "-S", program, str(self.world.record("other job")), str(self.world.leave)]
        self.world.order("other", argv=argv, state_dir=str(self.world.state_dir))
        told = self.world.await_event("other started", 20)
        self.world.wait(lambda: self.world.record("other job").exists(), 20, "the other job's command recorded")
        self.world.observer.strangers.add(known(told["reaper"]))
        self.world.know(Planted("other job", known(told["pid"]), self.world.record("other job"), of_supervisor=True))
