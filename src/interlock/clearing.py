"""Clearing: take out of a scope what its dead participants left behind and what nobody uses; break what is stuck.

`plan` looks and proposes, taking nothing; `perform` does one proposed step. Without ``force`` a step rests on proof
alone, so it is safe at any time beside running jobs: the dead stay dead, and an idle record is looked at once more
under its lock before it goes. `break_` asks nobody and is written down in the store's audit trail. The lock files of
shell scripts are cleared likewise, by the same steps.

Layer: above `inspection`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from interlock import results
from interlock.abc import STATUS, Evict, Machine, Store, Stored
from interlock.errors import RecordInvalid
from interlock.holder import Holder
from interlock.inspection import PIDFILE, Judge, judge, pidfiles, understand
from interlock.machines import BY_KIND
from interlock.machines.barrier import BARRIER, Reset
from interlock.machines.once import ONCE, Forget
from interlock.objects.named import wall_ms

REACH_S = 5.0  # how long a record may be out of reach before a step gives up
WATCH_S = 0.5  # how often it is looked whether somebody gives a sign of life


class Step(NamedTuple):
    """One thing to do, or that was done.

    action: ``evict`` a session's part, ``retire`` an idle record, ``forget`` a dead session that no record mentions,
            ``reset`` a barrier, ``forget result`` of a once, ``set aside`` a damaged record, ``remove`` a result's file
            whose record is gone or a shell's lock file; ``keep`` and ``damaged`` are what is not cleared without force.
    role:   the part of an evicted or kept session: ``holds`` or ``waits``.
    state:  whether that session is ``alive``, ``dead`` or ``unknown``, and `why` is the proof in words.
    """

    action: str
    name: str | None = None
    kind: str | None = None
    session: str | None = None
    role: str | None = None
    state: str | None = None
    why: str = ""
    who: Holder | None = None
    path: str | None = None

    def facts(self) -> dict[str, Any]:
        """Everything, for ``--json`` and the audit trail."""
        return {**self._asdict(), "status": self.status, "who": self.who.describe() if self.who else None}

    @property
    def status(self) -> str | None:
        """The state as people are told of it."""
        return STATUS[self.state] if self.state else None

    @property
    def open(self) -> bool:
        """Whether it is only told, because it takes a person to decide."""
        return self.action in ("keep", "damaged")


def plan(store: Store, prefix: str = "", *, force: bool = False) -> list[Step]:
    """What there is to clear under the names that start with `prefix`; `force` also takes those who may be alive.

    A session is forgotten only if no record of the whole scope mentions it, and none at all if a record cannot be read.
    """
    verdict = judge(store)
    # Before the records are read: a session that is dead by now cannot enter one of them afterwards.
    dead = [session for session in store.sessions() if verdict(session).state == "dead"]
    cleared = _cleared(force)
    steps: list[Step] = []
    mentioned: set[str] = set()
    names: list[str] = []
    orphans = results.orphans(store, ())
    for stored in store.records():
        try:
            name, machine, record = _understood(stored)
        except RecordInvalid as error:
            steps.append(Step("damaged", error.name or error.path, why=error.damage))
            mentioned.update(dead)
            orphans = []
            continue
        names.append(name)
        if name.startswith(prefix):
            record = _propose(steps, name, machine, record, verdict, cleared)
        mentioned.update(machine.sessions(record))
    for session in dead:
        if session not in mentioned:
            life = verdict(session)
            steps.append(Step("forget", session=session, state=life.state, why=life.proof, who=life.holder))
    if not prefix:
        gone = {*results.orphans(store, names)}
        steps.extend(Step("remove", path=path, why="its record is gone") for path in orphans if path in gone)
    return steps


def plan_pidfiles(where: Sequence[str], *, force: bool = False) -> list[Step]:
    """What there is to clear among the lock files of shell scripts in some places; see `pidfile.survey`."""
    steps = []
    for status in pidfiles(where):
        life = status.parts[0].life
        path = os.path.abspath(status.name)
        step = Step("remove", status.name, PIDFILE, None, "holds", life.state, life.proof, life.holder, path)
        if life.state in _cleared(force):
            steps.append(step)
        elif life.state == "unknown":
            steps.append(step._replace(action="keep"))
    return steps


def watch(store: Store, seconds: float) -> None:
    """Look at everybody again and again for so long, so that a store which tells the dead by their silence hears it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for session in store.sessions():
            store.alive(session)
        time.sleep(min(left, WATCH_S))


def _cleared(force: bool) -> tuple[str, ...]:
    return ("dead", "unknown") if force else ("dead",)


def _understood(stored: Stored | RecordInvalid) -> tuple[str, Machine, Any]:
    if isinstance(stored, RecordInvalid):
        raise stored
    return stored.name, *understand(stored)


def _propose(
    steps: list[Step], name: str, machine: Machine, record: Any, verdict: Judge, cleared: tuple[str, ...]
) -> Any:
    """Add the steps for one record; returns the record as they will leave it."""
    idle = machine.idle(record)
    for session, role in machine.sessions(record).items():
        life = verdict(session)
        step = Step("evict", name, machine.kind, session, role, life.state, life.proof, life.holder)
        if life.state in cleared:
            steps.append(step)
            record, _ = machine.apply(record, Evict(session))
        elif life.state == "unknown" and not idle:
            steps.append(step._replace(action="keep"))
    if machine.idle(record):
        steps.append(Step("retire", name, machine.kind, why="idle"))
    return record


def perform(store: Store, step: Step, reason: str = "") -> bool:
    """Do one step of a plan; False if there was nothing left to do. What rests on no proof is written down.

    Raises: Unavailable, OutcomeUnknown: the record was out of reach; the steps before are done, `plan` again.
    """
    if step.action == "remove" and step.kind == PIDFILE:
        return _remove_pidfile(store, step, reason)
    if step.action == "remove" and step.path:
        results.remove([step.path])
        return True
    if step.action == "forget" and step.session:
        store.forget_session(step.session)
        return True
    if step.name is None or step.kind is None or step.open:
        return False
    machine = BY_KIND[step.kind]
    if step.action == "retire":
        return store.retire(step.name, machine)
    evict = Evict(step.session or "", wall_ms(), step.why)
    if store.transact(step.name, machine, evict, _deadline()).state == "gone":
        return False
    if step.state != "dead":
        _write_down(store, step, reason)
    return True


def _remove_pidfile(store: Store, step: Step, reason: str) -> bool:
    """Remove a shell's lock file after another look at it, under its guard."""
    from interlock import pidfile

    removed = pidfile.clear(step.path or "", force=step.state != "dead")
    if removed is not None and removed.state != "dead":
        _write_down(store, step._replace(state=removed.state, why=removed.proof, who=removed.holder), reason)
    return removed is not None


def break_(store: Store, name: str, reason: str) -> list[Step]:
    """Free a name whoever has it, and write down who did it and why; returns what was done.

    A lock, semaphore, once or fence loses every participant; one that lives learns of it by `SessionLost`, or queues
    again if it waited. A barrier is reset: who waits gets `BrokenBarrier`. A result of a once is forgotten. A damaged
    record is set aside.
    """
    done = []
    for step in _break_steps(store, name, reason):
        _write_down(store, step, reason)
        done.append(step)
    return done


def _break_steps(store: Store, name: str, reason: str) -> Iterator[Step]:
    stored = None
    try:
        stored = store.read(name)
        if stored is None:
            return
        machine, record = understand(stored)
    except RecordInvalid as error:
        aside = store.discard(name, unreadable=stored.text if stored is not None else None)
        if aside is None:
            raise
        yield Step("set aside", name, why=f"{error.damage}; it is now {aside}")
        return
    if machine is BARRIER and (record.arrivals or record.broken is not None):
        store.transact(name, machine, Reset(), _deadline())
        yield Step("reset", name, machine.kind)
    parts = machine.sessions(record)
    # From the back of the queue, holders last: so nobody who waited is granted in between, only to be evicted.
    back_first = [*parts][::-1]
    for session in sorted(back_first, key=lambda who: parts[who] == "holds"):
        life = store.alive(session)
        if machine is BARRIER and life.state == "alive":
            continue  # it finds the verdict under its ticket
        evict = Evict(session, wall_ms(), f"broken: {reason}")
        if store.transact(name, machine, evict, _deadline()).state != "gone":
            yield Step("evict", name, machine.kind, session, parts[session], life.state, life.proof, life.holder)
    if machine is ONCE and (record.value is not None or record.error is not None):
        store.transact(name, machine, Forget(), _deadline())
        yield Step("forget result", name, machine.kind)


def _write_down(store: Store, step: Step, reason: str) -> None:
    """One line of JSON in the audit trail: when, who, what and why."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    store.audit(json.dumps({"at": now, "by": Holder.here().describe(), "reason": reason, **step.facts()}))


def _deadline() -> float:
    return time.monotonic() + REACH_S
