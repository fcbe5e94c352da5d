"""Fence: turns in which one party writes while the others wait for its result.

Every party joins every turn once; a turn ("epoch") has a seat for each of them. The rules:

- the writer is the first to sit down, or the party with the label that was asked for;
- the others wait until the writer's value or error is published, and each collects it by leaving;
- the turn is over when every party had its seat and has left it; whoever comes back earlier queues for the next turn;
- a writer that dies or gives up before it published hands over to the next waiting seat, after a death with
  `recovered`; a writer that was asked for by label and dies fails the turn for all, because nobody else may write;
- a dead party's seat counts as left, so that the others go on; a new session under its label may take it over.

Outcomes: ``yours`` with (epoch, recovered): write; ``waiting``; ``done`` with the value's text; ``failed`` with the
error's text; ``died`` (the writer asked for died); ``left``, ``gone``, ``mismatch`` with (parties, writer), ``limit``.
Layer: a machine.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket
from interlock.machines.once import LIMIT_BYTES, Fail, Publish
from interlock.machines.shape import boolean, distinct, fields, integer, items, optional_text, text, ticket

LIMIT = 4096  # seats and queue of one record

WAITS, WRITES, LEFT, DEAD = "waits", "writes", "left", "dead"


class Join(NamedTuple):
    """Sit down for this turn. `label` tells parties apart; `writer` is the label that must write, or empty."""

    ticket: Ticket
    label: str
    parties: int
    writer: str = ""
    at: float = 0.0


class Seat(NamedTuple):
    """One party of the turn: ``waits``, ``writes``, ``left`` or ``dead``."""

    ticket: Ticket
    label: str
    state: str


class Record(NamedTuple):
    """`died` says that the writer asked for is dead; at most one of `value`, `error` and `died` is set."""

    floor: int = 0
    epoch: int = 0
    parties: int = 0
    writer: str = ""
    recovered: bool = False
    seats: tuple[Seat, ...] = ()
    queue: tuple[Join, ...] = ()
    value: str | None = None
    error: str | None = None
    died: bool = False


def _settled(record: Record) -> Outcome | None:
    if record.value is not None:
        return Outcome("done", record.value)
    if record.error is not None:
        return Outcome("failed", record.error)
    return Outcome("died") if record.died else None


def _standing(record: Record, seat: Seat) -> Outcome:
    settled = _settled(record)
    if settled is not None:
        return settled
    if seat.state == WRITES:
        return Outcome("yours", (record.epoch, record.recovered))
    writers = tuple(other.ticket.session for other in record.seats if other.state == WRITES)
    return Outcome(WAITING, watch=writers, position=1)


def _queued(record: Record) -> Outcome:
    present = tuple(dict.fromkeys(seat.ticket.session for seat in record.seats if seat.state != DEAD))
    return Outcome(WAITING, watch=present, position=len(record.seats))


def _join(record: Record, op: Join) -> tuple[Record, Outcome]:
    for seat in record.seats:
        if seat.ticket == op.ticket and seat.state in (WAITS, WRITES):
            return record, _standing(record, seat)
    if any(waiting.ticket == op.ticket for waiting in record.queue):
        return record, _queued(record)
    if not record.seats:
        record = record._replace(parties=op.parties, writer=op.writer)
    elif (record.parties, record.writer) != (op.parties, op.writer) and not record.queue:
        return record, Outcome("mismatch", (record.parties, record.writer))
    if len(record.seats) + len(record.queue) >= LIMIT:
        return record, Outcome("limit", LIMIT)
    taken = {seat.label for seat in record.seats if seat.state != DEAD}
    if op.label in taken or (len(record.seats) >= record.parties and all(s.label != op.label for s in record.seats)):
        after = record._replace(queue=(*record.queue, op._replace(at=0.0)))
        return after, _queued(after)
    seats = tuple([seat for seat in record.seats if seat.label != op.label])
    free = _settled(record) is None and all(seat.state != WRITES for seat in seats)
    mine = Seat(op.ticket, op.label, WRITES if free and op.writer in ("", op.label) else WAITS)
    after = record._replace(seats=(*seats, mine))
    return after, _standing(after, mine)


def _settle(record: Record, op: Publish | Fail) -> tuple[Record, Outcome]:
    mine = [seat for seat in record.seats if seat.ticket == op.ticket]
    settled = _settled(record)
    if not mine or (settled is None and mine[0].state != WRITES):
        return record, Outcome("gone")
    if settled is not None:
        return record, settled
    value, error = (op.value, None) if isinstance(op, Publish) else (None, op.error)
    if len(value or error or "") > LIMIT_BYTES:
        return record, Outcome("limit", LIMIT_BYTES)
    seats = tuple(seat._replace(state=WAITS) if seat.ticket == op.ticket else seat for seat in record.seats)
    after = record._replace(value=value, error=error, seats=seats, recovered=False)
    woken = tuple(seat.ticket for seat in seats if seat.state == WAITS and seat.ticket != op.ticket)
    return after, _standing(after, seats[0])._replace(unpark=woken)


def _leave(record: Record, op: Leave | Evict) -> tuple[Record, Outcome]:
    """Leaving is per ticket; eviction does the same for all of a session and leaves a dead seat behind."""
    dead = isinstance(op, Evict)
    gone = (lambda who: who.session == op.session) if isinstance(op, Evict) else (lambda who: who == op.ticket)
    queue = tuple([waiting for waiting in record.queue if not gone(waiting.ticket)])
    settled, seats, wrote = _settled(record) is not None, [], False
    for seat in record.seats:
        if gone(seat.ticket) and seat.state != DEAD and (dead or seat.state != LEFT):
            wrote = wrote or seat.state == WRITES
            if not dead and not settled:
                continue
            seat = seat._replace(state=DEAD if dead else LEFT)
        seats.append(seat)
    after = record._replace(seats=tuple(seats), queue=queue)
    if after == record:
        return record, Outcome("gone")
    after, woken = _hand_over(after, dead) if wrote else (after, ())
    after, moved = _turn(after)
    return after, Outcome("left", unpark=woken + moved)


def _hand_over(record: Record, dead: bool) -> tuple[Record, tuple[Ticket, ...]]:
    if record.writer:
        waiting = tuple(seat.ticket for seat in record.seats if seat.state == WAITS)
        return (record._replace(died=True), waiting) if dead else (record, ())
    record = record._replace(recovered=record.recovered or dead)
    for index, seat in enumerate(record.seats):
        if seat.state == WAITS:
            seats = (*record.seats[:index], seat._replace(state=WRITES), *record.seats[index + 1 :])
            return record._replace(seats=seats), (seat.ticket,)
    return record, ()


def _turn(record: Record) -> tuple[Record, tuple[Ticket, ...]]:
    """Begin the next turn when everybody had a seat and has left it, or when nobody is left alive."""
    states = {seat.state for seat in record.seats}
    over = len(record.seats) >= record.parties and states <= {LEFT, DEAD}
    if not record.seats or not (over or states == {DEAD}):
        return record, ()
    queue = record.queue
    after = Record(record.floor, record.epoch + 1, recovered=record.recovered)
    for waiting in queue:
        after, _ = _join(after, waiting)
    return after, tuple(waiting.ticket for waiting in queue)


_STEPS: dict[type, Any] = {Join: _join, Publish: _settle, Fail: _settle, Leave: _leave, Evict: _leave}


class Fence:
    """The machine."""

    kind = "fence"

    def initial(self, floor: int) -> Record:
        return Record(floor)

    def apply(self, record: Record, op: Any) -> tuple[Record, Outcome]:
        result: tuple[Record, Outcome] = _STEPS[type(op)](record, op)
        return result

    def token(self, record: Record) -> int:
        return record.floor

    def idle(self, record: Record) -> bool:
        return not record.seats and not record.queue and not record.recovered

    def sessions(self, record: Record) -> dict[str, str]:
        parts = {waiting.ticket.session: "waits" for waiting in record.queue}
        parts.update((seat.ticket.session, "waits") for seat in record.seats if seat.state == WAITS)
        parts.update((seat.ticket.session, "holds") for seat in record.seats if seat.state == WRITES)
        return parts

    def encode(self, record: Record) -> str:
        return json.dumps(record._asdict(), separators=(",", ":"))

    def decode(self, line: str) -> Record:
        (floor, epoch, parties, writer, recovered, seats, queue, value, error, died) = fields(
            json.loads(line), *Record._fields
        )
        record = Record(
            integer(floor),
            integer(epoch),
            integer(parties),
            text(writer),
            boolean(recovered),
            tuple(_seat(row) for row in items(seats)),
            tuple(_waiting(row) for row in items(queue)),
            optional_text(value),
            optional_text(error),
            boolean(died),
        )
        distinct(seat.ticket for seat in (*record.seats, *record.queue))
        if (record.value is not None) + (record.error is not None) + record.died > 1:
            raise ValueError("two results of one turn")
        return record


def _seat(row: Any) -> Seat:
    who, label, state = items(row)
    if state not in (WAITS, WRITES, LEFT, DEAD):
        raise ValueError("expected a seat's state")
    return Seat(ticket(*items(who)), text(label), state)


def _waiting(row: Any) -> Join:
    who, label, parties, writer, _ = items(row)
    return Join(ticket(*items(who)), text(label), integer(parties), text(writer))


FENCE = Fence()
