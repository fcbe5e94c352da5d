"""Event: a flag that lets waiters go.

A waiter that was there when the flag was set is released and stays released until it leaves, even if the flag is
cleared before it wakes; leaving says so once more. Outcomes: ``set`` (the flag is or was set for this ticket),
``waiting``, ``refused`` (tried once), ``clear``, ``left``, ``gone``, ``limit``. Layer: a machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket, takes
from interlock.machines.shape import boolean, distinct, fields, integer, items, parse, ticket
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # waiters in one record
CROWD = 64  # from here on a new waiter also looks whether the oldest one still lives


class Wait(NamedTuple):
    """Ask whether the flag is set; wait for it unless ``wait=False``."""

    ticket: Ticket
    wait: bool = True


class Set(NamedTuple):
    """Set the flag and release everybody who waits."""


class Clear(NamedTuple):
    """Clear the flag."""


class Waiter(NamedTuple):
    """One ticket that waits, or that was released and has not left yet."""

    ticket: Ticket
    released: bool


class Record(NamedTuple):
    """`floor` is carried for the store alone: an event gives out no tokens."""

    floor: int = 0
    flag: bool = False
    waiters: tuple[Waiter, ...] = ()


def _wait(record: Record, op: Wait) -> tuple[Record, Outcome]:
    for waiter in record.waiters:
        if waiter.ticket == op.ticket:
            return record, Outcome("set") if waiter.released else _standing(record)
    if record.flag:
        return record, Outcome("set")
    if not op.wait:
        return record, Outcome("refused")
    if len(record.waiters) >= LIMIT:
        return record, Outcome("limit", LIMIT)
    after = record._replace(waiters=(*record.waiters, Waiter(op.ticket, False)))
    return after, _standing(after)


def _standing(record: Record) -> Outcome:
    oldest = (record.waiters[0].ticket.session,) if len(record.waiters) > CROWD else ()
    return Outcome(WAITING, watch=oldest)


def _set(record: Record, op: Set) -> tuple[Record, Outcome]:
    waiting = tuple(waiter.ticket for waiter in record.waiters if not waiter.released)
    if record.flag and not waiting:
        return record, Outcome("set")
    released = tuple(Waiter(waiter.ticket, True) for waiter in record.waiters)
    return Record(record.floor, True, released), Outcome("set", unpark=waiting)


def _clear(record: Record, op: Clear) -> tuple[Record, Outcome]:
    return (record._replace(flag=False) if record.flag else record), Outcome("clear")


def _leave(record: Record, op: Leave | Evict) -> tuple[Record, Outcome]:
    leaving = [waiter for waiter in record.waiters if takes(op, waiter.ticket)]
    if not leaving:
        return record, Outcome("gone")
    kept = tuple([waiter for waiter in record.waiters if waiter not in leaving])
    return record._replace(waiters=kept), Outcome("set" if leaving[0].released else "left")


_STEPS: dict[type, Step] = {Wait: _wait, Set: _set, Clear: _clear, Leave: _leave, Evict: _leave}


class Event(Steps):
    """The machine."""

    kind = "event"
    record = Record
    steps = _STEPS

    def idle(self, record: Record) -> bool:
        return not record.flag and not record.waiters

    def sessions(self, record: Record) -> dict[str, str]:
        return {waiter.ticket.session: "waits" for waiter in record.waiters}

    def decode(self, line: str) -> Record:
        floor, flag, waiters = fields(parse(line), "floor", "flag", "waiters")
        record = Record(integer(floor), boolean(flag), tuple(_waiter(row) for row in items(waiters)))
        distinct(waiter.ticket for waiter in record.waiters)
        return record


def _waiter(row: Any) -> Waiter:
    who, released = items(row)
    return Waiter(ticket(who), boolean(released))


EVENT = Event()
