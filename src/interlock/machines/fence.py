"""Fence: turns in which one party writes while the others wait for its result.

Every party joins every turn once; a turn ("epoch") has a seat for each of them. The rules:

- the writer is the first to sit down, or the party with the label that was asked for;
- the others wait until the writer's value or error is published; leaving says once more what it was, so that a
  time-out that comes too late still learns it;
- the turn is over when every party had its seat and has left it; whoever comes back earlier queues for the next turn,
  which may ask for another writer;
- a writer that dies or gives up before it published hands over to the next waiting seat, after a death with
  `recovered`; a writer that was asked for by label and dies fails the turn for all, because nobody else may write;
- a party of the last turn that has not come yet, or one that gave up, is *away*: those who need it watch it;
- a result that nobody waits for any more is told to those who come later only while one who had a seat lives: otherwise
  it is another run that comes. In a scope of one run alone (``lasting``) it stays until all parties have had it;
- a dead party's seat counts as left, in this turn and the next ones, so that the others go on; a new session under its
  label may take it over;
- a party that nobody has seen yet and somebody needs is watched by its label, if the labels are the ranks of as many
  parties; once it is proved dead it is *absent*, which is as good as a dead seat.

Outcomes: ``yours`` with (epoch, session of the writer that died or ""): write; ``waiting`` with how often the writer
gave a sign of life; ``done`` with the value's text; ``failed`` with the error's text; ``died`` (the writer asked for
died); ``left``, ``gone``, ``mismatch`` with (parties, writer), ``limit``. Layer: a machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket, label_of, takes, unseen
from interlock.machines.once import LIMIT_BYTES, Fail, Publish
from interlock.machines.shape import (
    boolean,
    distinct,
    fields,
    integer,
    items,
    optional_session,
    optional_text,
    parse,
    text,
    ticket,
)
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # seats and queue of one record
WATCHED = 8  # so many parties that nobody has seen are watched at a time

WAITS, WRITES, LEFT, DEAD, AWAY = "waits", "writes", "left", "dead", "away"


class Join(NamedTuple):
    """Sit down for this turn. `label` tells parties apart; `writer` is the label that must write, or empty; `lasting`
    says that the scope is one run's own, `sure` that those who had a seat have been looked at."""

    ticket: Ticket
    label: str
    parties: int
    writer: str = ""
    lasting: bool = False
    sure: bool = False


class Beat(NamedTuple):
    """The writer's sign of life; they are numbered from 1."""

    ticket: Ticket
    number: int


class Seat(NamedTuple):
    """One party of the turn: ``waits``, ``writes``, ``left``, ``dead`` or ``away``."""

    ticket: Ticket
    label: str
    state: str


class Record(NamedTuple):
    """`died` says that the writer asked for is dead; at most one of `value`, `error` and `died` is set. `lost` is the
    session that died writing last, until there is a result; `beats` counts the writer's signs of life."""

    floor: int = 0
    epoch: int = 0
    parties: int = 0
    writer: str = ""
    lost: str = ""
    seats: tuple[Seat, ...] = ()
    queue: tuple[Join, ...] = ()
    value: str | None = None
    error: str | None = None
    died: bool = False
    absent: tuple[str, ...] = ()
    beats: int = 0
    lasting: bool = False


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
        return Outcome("yours", (record.epoch, record.lost))
    watch = tuple(other.ticket.session for other in record.seats if _ahead(record, other))
    if record.writer in _unseen(record):
        watch = (unseen(record.writer),)
    return Outcome(WAITING, record.beats, watch=watch, position=1)


def _ahead(record: Record, seat: Seat) -> bool:
    """Whether the seat's party is the one to write, though it may be away."""
    return seat.state == WRITES or (seat.state == AWAY and record.writer == seat.label)


def _queued(record: Record) -> Outcome:
    needed = tuple(dict.fromkeys(seat.ticket.session for seat in record.seats if seat.state != DEAD))
    needed += tuple(unseen(label) for label in _unseen(record)[:WATCHED])
    return Outcome(WAITING, record.beats, watch=needed, position=len(record.seats))


def _unseen(record: Record) -> tuple[str, ...]:
    """The ranks that no seat of the turn answers to, and that nobody has proved dead."""
    ranks = [str(rank) for rank in range(record.parties)]
    labels = {seat.label for seat in record.seats}
    return tuple(rank for rank in ranks if rank not in labels | {*record.absent}) if labels <= {*ranks} else ()


def _begun(record: Record) -> bool:
    """Whether anybody alive has sat down in this turn."""
    return _settled(record) is not None or not {seat.state for seat in record.seats} <= {AWAY, DEAD}


def _full(record: Record) -> bool:
    return sum(seat.state != AWAY for seat in record.seats) + len(record.absent) >= record.parties


def _join(record: Record, op: Join) -> tuple[Record, Outcome]:
    for seat in record.seats:
        if seat.ticket == op.ticket:
            return record, _standing(record, seat) if seat.state in (WAITS, WRITES) else Outcome("gone")
    if any(waiting.ticket == op.ticket for waiting in record.queue):
        return record, _queued(record)
    if not (op.lasting or op.sure) and _abandoned(record) and op.ticket.session not in _left(record):
        return record, Outcome(WAITING, watch=_left(record), then=op._replace(sure=True))
    turn = record
    if not _begun(record):
        seats, absent = (record.seats, record.absent) if record.parties == op.parties else ((), ())
        turn = record._replace(parties=op.parties, writer=op.writer, seats=seats, absent=absent, lasting=op.lasting)
    before = [seat for seat in turn.seats if seat.label == op.label]
    known = bool(before) or op.label in turn.absent
    later = any(seat.state not in (AWAY, DEAD) for seat in before) or (_full(turn) and not known)
    writer = turn.writer if not later else turn.queue[0].writer if turn.queue else op.writer
    if (turn.parties, writer) != (op.parties, op.writer):
        return record, Outcome("mismatch", (turn.parties, writer))
    after, outcome = _line_up(turn, op) if later else _sit(turn, op)
    if len(after.seats) + len(after.queue) > LIMIT:
        return record, Outcome("limit", LIMIT)
    return after, outcome


def _abandoned(record: Record) -> bool:
    """Whether there is a result that somebody still lacks, and nobody there who waits for it or has a seat again."""
    return _settled(record) is not None and not record.queue and WAITS not in {seat.state for seat in record.seats}


def _left(record: Record) -> tuple[str, ...]:
    return tuple(dict.fromkeys(seat.ticket.session for seat in record.seats if seat.state == LEFT))


def _line_up(record: Record, op: Join) -> tuple[Record, Outcome]:
    """Wait for the next turn."""
    after = record._replace(queue=(*record.queue, op))
    return after, _queued(after)


def _sit(record: Record, op: Join) -> tuple[Record, Outcome]:
    """Take the label's seat; once all seats are taken, nobody is away any more."""
    mine = Seat(op.ticket, op.label, WAITS)
    after = record._replace(
        seats=(*(seat for seat in record.seats if seat.label != op.label), mine),
        absent=tuple(label for label in record.absent if label != op.label),
    )
    if _full(after):
        after = after._replace(seats=tuple(seat for seat in after.seats if seat.state != AWAY))
    after, _ = _succeed(after)
    return after, _standing(after, next(seat for seat in after.seats if seat.ticket == op.ticket))


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
    after = record._replace(value=value, error=error, seats=seats, lost="", beats=0)
    woken = tuple(seat.ticket for seat in seats if seat.state == WAITS and seat.ticket != op.ticket)
    return after, _standing(after, seats[0])._replace(unpark=woken)


def _leave(record: Record, op: Leave | Evict) -> tuple[Record, Outcome]:
    """Leaving is per ticket; eviction does the same for all of a session and leaves a dead seat behind."""
    if isinstance(op, Evict) and (label := label_of(op.session)) is not None:
        return _miss(record, label)
    dead, settled = isinstance(op, Evict), _settled(record)
    rest = DEAD if dead else AWAY if settled is None else LEFT
    queue = tuple(waiting for waiting in record.queue if not takes(op, waiting.ticket))
    going = [seat for seat in record.seats if takes(op, seat.ticket) and _leaves(seat, dead)]
    if not going and queue == record.queue:
        return record, Outcome("gone")
    wrote = [seat.ticket.session for seat in going if seat.state == WRITES]
    after = record._replace(
        lost=wrote[0] if dead and wrote else record.lost,
        seats=tuple(seat._replace(state=rest) if seat in going else seat for seat in record.seats),
        queue=queue,
    )
    after, woken = _succeed(after)
    after, moved = _turn(after)
    said = settled if settled is not None and going and not dead else Outcome("left")
    return after, said._replace(unpark=woken + moved)


def _miss(record: Record, label: str) -> tuple[Record, Outcome]:
    """Go on without a party that died before anybody saw it."""
    if label not in _unseen(record) or not _begun(record):
        return record, Outcome("gone")
    after, woken = _succeed(record._replace(absent=(*record.absent, label)))
    after, moved = _turn(after)
    return after, Outcome("left", unpark=woken + moved)


def _leaves(seat: Seat, dead: bool) -> bool:
    return seat.state in (WAITS, WRITES) or (dead and seat.state != DEAD)


def _succeed(record: Record) -> tuple[Record, tuple[Ticket, ...]]:
    """Let the next one write that may, if nobody does; if nobody ever may, fail the turn for those who wait."""
    waiting = [seat for seat in record.seats if seat.state == WAITS]
    if not waiting or _settled(record) is not None or any(seat.state == WRITES for seat in record.seats):
        return record, ()
    for able in waiting:
        if record.writer in ("", able.label):
            seats = tuple(seat._replace(state=WRITES) if seat is able else seat for seat in record.seats)
            return record._replace(seats=seats), (able.ticket,)
    dead = {seat.label for seat in record.seats if seat.state == DEAD}
    if record.writer in dead.union(record.absent):
        return record._replace(died=True), tuple(seat.ticket for seat in waiting)
    return record, ()


def _turn(record: Record) -> tuple[Record, tuple[Ticket, ...]]:
    """Begin the next turn when everybody had a seat and has left it, or when nobody is left alive."""
    states = {seat.state for seat in record.seats}
    deserted = states == {DEAD} and not (record.lasting and _settled(record) is not None)
    if not states or not (deserted or (states <= {LEFT, DEAD, AWAY} and _full(record) and _begun(record))):
        return record, ()
    seats = tuple(seat if seat.state == DEAD else seat._replace(state=AWAY) for seat in record.seats)
    after = Record(record.floor, record.epoch + 1, record.parties, "", record.lost)
    if LEFT in states:
        after = after._replace(seats=seats, absent=record.absent)
    for waiting in record.queue:
        after, _ = _join(after, waiting)
    return after, tuple(waiting.ticket for waiting in record.queue)


def _beat(record: Record, op: Beat) -> tuple[Record, Outcome]:
    writing = Seat(op.ticket, "", WRITES) in [seat._replace(label="") for seat in record.seats]
    if not writing:
        return record, Outcome("gone")
    after = record if record.beats >= op.number else record._replace(beats=op.number)
    return after, Outcome("beating")


_STEPS: dict[type, Step] = {
    Join: _join, Publish: _settle, Fail: _settle, Beat: _beat, Leave: _leave, Evict: _leave,
}  # fmt: skip


class Fence(Steps):
    """The machine."""

    kind = "fence"
    record = Record
    steps = _STEPS

    def idle(self, record: Record) -> bool:
        return not _begun(record) and not record.queue and not record.lost

    def sessions(self, record: Record) -> dict[str, str]:
        parts = {waiting.ticket.session: "waits" for waiting in record.queue}
        parts.update((seat.ticket.session, "waits") for seat in record.seats if seat.state in (WAITS, AWAY))
        parts.update((seat.ticket.session, "holds") for seat in record.seats if seat.state == WRITES)
        return parts

    def decode(self, line: str) -> Record:
        (floor, epoch, parties, writer, lost, seats, queue, value, error, died, absent, beats, lasting) = fields(
            parse(line), *Record._fields
        )
        record = Record(
            integer(floor),
            integer(epoch),
            integer(parties),
            text(writer),
            optional_session(lost),
            tuple(_seat(row) for row in items(seats)),
            tuple(_waiting(row) for row in items(queue)),
            optional_text(value),
            optional_text(error),
            boolean(died),
            tuple(text(label) for label in items(absent)),
            integer(beats),
            boolean(lasting),
        )
        distinct([seat.ticket for seat in record.seats] + [waiting.ticket for waiting in record.queue])
        if (record.value is not None) + (record.error is not None) + record.died > 1:
            raise ValueError("two results of one turn")
        return record


def _seat(row: Any) -> Seat:
    who, label, state = items(row)
    if state not in (WAITS, WRITES, LEFT, DEAD, AWAY):
        raise ValueError("expected a seat's state")
    return Seat(ticket(who), text(label), state)


def _waiting(row: Any) -> Join:
    who, label, parties, writer, lasting, sure = items(row)
    return Join(ticket(who), text(label), integer(parties), text(writer), boolean(lasting), boolean(sure))


FENCE = Fence()
