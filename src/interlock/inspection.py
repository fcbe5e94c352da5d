"""Inspection: what the records of a scope say, and whether the participants they name still live.

Nothing here takes a lock, begins a session, or writes: looking never makes anybody's attempt fail, and works in a
directory that may only be read. Where a store has no proof, the scheduler of the participant's job is asked. The lock
files of shell scripts are told in the same words as names.

Layer: above `session`; it reads the machines' records, which the objects keep to themselves.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from interlock import completion
from interlock.abc import Liveness, Machine, Store, Stored
from interlock.completion import Completion
from interlock.errors import InterlockError, RecordInvalid
from interlock.machines import BY_KIND

PIDFILE = "pidfile"  # the kind of a shell's lock file; its name is its path

Judge = Callable[[str], Liveness]


class Part(NamedTuple):
    """One ticket's part in a record.

    role:  ``holds`` or ``waits``; waiting parts stand in the order in which they are served.
    since: wall-clock seconds at which it came to that, 0 where the record does not say.
    mode:  how: ``exclusive``, ``shared``, ``permit``, or the rank of a collective's party.
    """

    session: str
    role: str
    life: Liveness
    since: float = 0.0
    token: int = 0
    mode: str = ""

    def facts(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        holder = self.life.holder
        return {
            "session": self.session,
            "state": self.life.state,
            "status": self.life.status,
            "proof": self.life.proof,
            "since": self.since or None,
            "token": self.token or None,
            "mode": self.mode or None,
            "who": holder.describe() if holder else None,
            "holder": json.loads(holder.to_json()) if holder else None,
        }


class Status(NamedTuple):
    """One name as it stands.

    state: ``held``, ``waiting`` (a collective that fills), ``stale`` (all who hold are proved dead: the next one gets
           it), ``broken``, ``free``, ``set``, ``done``, ``failed``, or ``damaged``.
    """

    name: str
    kind: str | None = None
    state: str = "free"
    parts: tuple[Part, ...] = ()
    detail: dict[str, Any] = {}
    done: Completion | None = None
    damage: str | None = None

    @property
    def holders(self) -> list[Part]:
        return [part for part in self.parts if part.role == "holds"]

    @property
    def waiters(self) -> list[Part]:
        return [part for part in self.parts if part.role == "waits"]

    @property
    def held(self) -> bool:
        """Whether a newcomer may find somebody there."""
        return self.state in ("held", "waiting", "broken")

    @property
    def in_use(self) -> bool:
        """Whether it is worth a look: not merely free, or finished."""
        return bool(self.parts) or self.state in ("broken", "damaged")

    def facts(self) -> dict[str, Any]:
        """Everything, for ``--json``; the keys are the same for every kind."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "holders": [part.facts() for part in self.holders],
            "waiters": [part.facts() for part in self.waiters],
            "detail": self.detail,
            "done": self.done.facts() if self.done else None,
            "damage": self.damage,
        }


def informed(life: Liveness) -> Liveness:
    """What a store knows of a participant and, where that is nothing, the word of the scheduler of its job."""
    if life.state != "unknown" or life.holder is None or life.holder.job is None:
        return life
    from interlock import schedulers  # not at import: few looks end there

    told = schedulers.life(life.holder)
    if told is None:
        return life
    return life._replace(
        state=told.state, proof=f"{life.proof}; {told.proof}" if told.state == "unknown" else told.proof
    )


def judge(store: Store) -> Judge:
    """Tells of any session whether it lives, with proof; looks at each of them once."""
    return functools.cache(lambda session: informed(store.alive(session)))


def look(store: Store, name: str) -> Status:
    """One name; a name without a record is free."""
    try:
        stored = store.read(name)
    except RecordInvalid as error:
        return _damaged(error, name)
    return _status(judge(store), name, stored, completion.find(store, name))


def survey(store: Store, prefix: str = "") -> Iterator[Status]:
    """Every name that starts with `prefix`, in order; the damaged records, whose names are not known, come last."""
    verdict = judge(store)
    found: dict[str, Stored] = {}
    damaged: list[RecordInvalid] = []
    for stored in store.records(prefix):
        if isinstance(stored, Stored):
            found[stored.name] = stored
        else:
            damaged.append(stored)
    for name in sorted(found):
        yield _status(verdict, name, found[name], completion.of(found.get(name + completion.SUFFIX)))
    for error in damaged:
        yield _damaged(error, error.path)


def pidfiles(where: Sequence[str]) -> Iterator[Status]:
    """The lock files of shell scripts in some places, each of them told once; see `pidfile.survey`."""
    if not where:
        return
    from interlock import pidfile  # not at import: it stands on files and sessions

    for path, life in {path: life for place in where for path, life in pidfile.survey(place)}.items():
        yield _of_pidfile(path, life)


def look_at_pidfile(path: str) -> Status | None:
    """A shell's lock file, if it is one: it has the name of such files, or somebody's pid in it."""
    from interlock.pidfile import look as look_at
    from interlock.pidfile.sweep import NAME

    life = look_at(path)
    if life is None:
        return None
    known = os.path.basename(path) == NAME or (life.holder is not None and life.holder.pid)
    return _of_pidfile(path, life) if known else None


def _of_pidfile(path: str, life: Liveness) -> Status:
    """As it stands, its process being its only holder."""
    since = life.holder.since if life.holder is not None else 0.0
    holder = Part("", "holds", life, since, mode="exclusive")
    return Status(path, PIDFILE, "stale" if life.state == "dead" else "held", (holder,))


def holds(store: Store, name: str, session: str, token: int) -> bool:
    """Whether a grant still stands. A store that cannot be reached just now is no proof that it does not."""
    try:
        stored = store.read(name)
        record = understand(stored)[1] if stored is not None else None
    except InterlockError:
        return True
    return record is not None and any(
        entry.ticket.session == session and entry.token == token for entry in record.entries
    )


def understand(stored: Stored) -> tuple[Machine, Any]:
    """A record with its machine. Raises `RecordInvalid` if this version cannot read it (definite)."""
    machine = BY_KIND.get(stored.kind)
    try:
        if machine is None:
            raise ValueError(f"its kind is {stored.kind!r}, which this version does not know")
        return machine, machine.decode(stored.text)
    except ValueError as error:
        raise RecordInvalid(
            f"the record of {stored.name!r} cannot be read: {error}", name=stored.name, damage=str(error)
        ) from None


def _damaged(error: RecordInvalid, name: str) -> Status:
    where = f" ({error.path})" if error.path else ""
    return Status(error.name or name, state="damaged", damage=f"{error.damage or error}{where}")


def _status(verdict: Judge, name: str, stored: Stored | None, done: Completion | None) -> Status:
    if stored is None:
        return Status(name, state="done" if done else "free", done=done)
    try:
        machine, record = understand(stored)
    except RecordInvalid as error:
        return _damaged(error, name)
    idle, parts, detail = _READ[machine.kind](record, verdict)
    holders = [part for part in parts if part.role == "holds"]
    state = idle if idle != "free" or done is None else "done"
    if idle != "broken" and parts:
        state = "held" if holders else "waiting"
        if holders and all(part.life.state == "dead" for part in holders):
            state = "stale"
    return Status(name, machine.kind, state, tuple(parts), detail, done)


Reading = tuple[str, list[Part], dict[str, Any]]  # the state when nobody has a part, the parts, the details


def _read_admission(record: Any, verdict: Judge) -> Reading:
    parts = []
    for (session, _), shared, token, since, _ in record.entries:
        mode = "permit" if record.permits else "shared" if shared else "exclusive"
        parts.append(Part(session, "holds" if token else "waits", verdict(session), since / 1000, token, mode))
    return "free", parts, {"token": record.token, "permits": record.permits or None, "recovered": record.recovered}


def _read_barrier(record: Any, verdict: Judge) -> Reading:
    parts = [Part(p.ticket.session, "waits", verdict(p.ticket.session), mode=_rank(p.label)) for p in record.arrivals]
    broken = record.broken.reason if record.broken else None
    detail = {
        "parties": record.parties, "arrived": len(parts), "generation": record.generation, "broken": broken,
    }  # fmt: skip
    return "broken" if broken is not None else "free", parts, detail


def _read_event(record: Any, verdict: Judge) -> Reading:
    waiting = [waiter.ticket.session for waiter in record.waiters if not waiter.released]
    return "set" if record.flag else "free", [Part(who, "waits", verdict(who)) for who in waiting], {"set": record.flag}


def _read_once(record: Any, verdict: Judge) -> Reading:
    parts = [
        Part(who.session, "waits" if place else "holds", verdict(who.session))
        for place, who in enumerate(record.claims)
    ]
    detail = {"attempts": record.attempts, "recovered": bool(record.lost)}
    return "done" if record.value is not None else "failed" if record.error is not None else "free", parts, detail


def _read_fence(record: Any, verdict: Judge) -> Reading:
    roles = {"writes": "holds", "waits": "waits"}
    parts = [
        Part(seat.ticket.session, roles[seat.state], verdict(seat.ticket.session), mode=_rank(seat.label))
        for seat in record.seats
        if seat.state in roles
    ]
    parts += [Part(j.ticket.session, "waits", verdict(j.ticket.session), mode=_rank(j.label)) for j in record.queue]
    return "free", parts, {"epoch": record.epoch, "parties": record.parties, "recovered": bool(record.lost)}


def _rank(label: str) -> str:
    return f"rank {label}" if label else ""


_READ: dict[str, Callable[[Any, Judge], Reading]] = {
    "lock": _read_admission,
    "semaphore": _read_admission,
    "barrier": _read_barrier,
    "event": _read_event,
    "once": _read_once,
    "fence": _read_fence,
}
