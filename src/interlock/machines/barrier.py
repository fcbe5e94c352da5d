"""Barrier: generations of parties that all arrive before any leaves.

A record collects the arrivals of one generation. The rules:

- the last arrival does not complete the generation by itself: it is told to make sure that everybody who arrived
  still lives (``watch``) and then to submit `Complete` (``then``); whoever died waiting never counts as arrived;
- whoever passes, or is let go by a broken barrier, finds a *notice* under its ticket until it leaves: a party that
  is slow to wake learns its own verdict even when later generations have passed it by;
- leaving reports the verdict once more and forgets it: a time-out that comes too late still learns that it passed;
- a waiting party that leaves, an `Abort` or the death of a party breaks the barrier for all; it stays broken until
  `Reset`, or until none of its *witnesses* is left, who are those that were there: then it is another run that comes.
  In a scope of one run alone (``lasting``) it stays broken for good;
- the parties of the last generation are remembered as members, so that one which dies before it arrives is missed
  by name; whoever arrives under a member's label takes its place;
- a party that nobody has seen yet is watched by its label, if the labels are the ranks of as many parties;
- a dead member breaks the barrier for members that come back. Until one does it only counts as lost: parties that are
  all new, the next run of a program, need not care who died in the last one.

Outcomes: ``waiting``, ``passed`` with (place, generation), ``broken`` with a `Broken`, ``gone``, ``left`` (evicted),
``reset``, ``mismatch`` with the record's parties, ``limit``. Layer: a machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket, label_of, unseen
from interlock.machines.shape import distinct, fields, integer, items, parse, session, text, ticket
from interlock.machines.steps import Step, Steps

LIMIT = 4096  # arrivals and notices in one record
WATCHED = 8  # so many parties that nobody has seen are watched at a time


class Arrive(NamedTuple):
    """Join the generation being collected. `label` is the party's rank as text, or empty; `lasting` says that the scope
    is one run's own, `sure` that the witnesses of a broken barrier have been looked at."""

    ticket: Ticket
    parties: int
    label: str = ""
    lasting: bool = False
    sure: bool = False


class Complete(NamedTuple):
    """Let the generation go, once its arrivals are known to live."""

    ticket: Ticket
    generation: int


class Abort(NamedTuple):
    """Break the barrier for everybody; `session`, who does it, is a witness."""

    reason: str = ""
    session: str = ""


class Reset(NamedTuple):
    """Start afresh; parties that wait are let go as broken."""


class Party(NamedTuple):
    """One arrival, or one member of the last generation."""

    ticket: Ticket
    label: str


class Broken(NamedTuple):
    """Why a barrier broke; `missing` holds (session, label) of each party known to be absent."""

    reason: str
    missing: tuple[tuple[str, str], ...] = ()


class Notice(NamedTuple):
    """A verdict kept until its ticket leaves: passed at `place` of `generation`, or broken."""

    ticket: Ticket
    place: int
    generation: int
    broken: Broken | None


class Record(NamedTuple):
    """`lost` are members that died; `floor` is carried for the store alone: a barrier gives out no tokens."""

    floor: int = 0
    parties: int = 0
    generation: int = 0
    arrivals: tuple[Party, ...] = ()
    members: tuple[Party, ...] = ()
    lost: tuple[Party, ...] = ()
    broken: Broken | None = None
    notices: tuple[Notice, ...] = ()
    witnesses: tuple[str, ...] = ()


def _arrive(record: Record, op: Arrive) -> tuple[Record, Outcome]:
    for notice in record.notices:
        if notice.ticket == op.ticket:
            return record, _verdict(notice)
    for index, party in enumerate(record.arrivals):
        if party.ticket == op.ticket:
            return record, _standing(record, index)
    if record.broken is not None and not record.witnesses and not op.lasting:
        record = record._replace(broken=None, generation=record.generation + 1)
    if record.broken is not None:
        if op.lasting or op.sure or op.ticket.session in record.witnesses:
            return record, Outcome("broken", record.broken)
        return record, Outcome(WAITING, watch=record.witnesses, then=op._replace(sure=True))
    if record.parties != op.parties:
        if record.arrivals:
            return record, Outcome("mismatch", record.parties)
        record = record._replace(parties=op.parties, members=(), lost=())
    if len(record.arrivals) >= record.parties:
        # The generation is full and about to be completed; its watchers go first, this party asks again.
        return record, Outcome(WAITING, watch=_sessions(record.arrivals))
    if len(record.arrivals) + len(record.notices) >= LIMIT:
        return record, Outcome("limit", LIMIT, watch=tuple(notice.ticket.session for notice in record.notices))
    party = Party(op.ticket, op.label)
    arrived = record._replace(
        arrivals=(*record.arrivals, party),
        members=tuple(member for member in record.members if not _replaces(party, member)),
        lost=tuple(member for member in record.lost if not _replaces(party, member)),
    )
    if arrived.lost and _returned(arrived):
        after, woken = _break(arrived, _death(arrived.lost, "before it arrived", ""))
        return after, Outcome("broken", after.broken, unpark=tuple(who for who in woken if who != op.ticket))
    return arrived, _standing(arrived, len(record.arrivals))


def _replaces(party: Party, member: Party) -> bool:
    return party.label != "" and party.label == member.label and party.ticket.session != member.ticket.session


def _returned(record: Record) -> bool:
    """Whether a party of the last generation has arrived again."""
    return not {party.ticket.session for party in record.arrivals}.isdisjoint(_sessions(record.members))


def _expected(record: Record) -> tuple[Party, ...]:
    """The members that have not arrived yet."""
    arrived = _sessions(record.arrivals)
    return tuple(member for member in record.members if member.ticket.session not in arrived)


def _sessions(parties: tuple[Party, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(party.ticket.session for party in parties))


def _standing(record: Record, index: int) -> Outcome:
    """A full generation is watched whole; a filling one in a ring, its first arrival watching absent members too."""
    mine = record.arrivals[index].ticket
    if len(record.arrivals) >= record.parties:
        others = tuple(who for who in _sessions(record.arrivals) if who != mine.session)
        return Outcome(WAITING, watch=others, then=Complete(mine, record.generation))
    watch = {record.arrivals[index - 1].ticket.session}
    if index == 0:
        watch.update(_sessions(_expected(record)))
        watch.update(unseen(label) for label in _unseen(record)[:WATCHED])
    watch.discard(mine.session)
    return Outcome(WAITING, watch=tuple(sorted(watch)), position=record.parties - len(record.arrivals))


def _verdict(notice: Notice) -> Outcome:
    if notice.broken is not None:
        return Outcome("broken", notice.broken)
    return Outcome("passed", (notice.place, notice.generation))


def _complete(record: Record, op: Complete) -> tuple[Record, Outcome]:
    for notice in record.notices:
        if notice.ticket == op.ticket:
            return record, _verdict(notice)
    tickets = [party.ticket for party in record.arrivals]
    if op.ticket not in tickets:
        return record, Outcome("gone")
    if record.generation != op.generation or len(tickets) < record.parties:
        return record, _standing(record, tickets.index(op.ticket))
    passed = tuple(Notice(who, index, record.generation, None) for index, who in enumerate(tickets))
    after = record._replace(
        generation=record.generation + 1,
        arrivals=(),
        members=record.arrivals,
        lost=(),
        notices=record.notices + passed,
    )
    woken = tuple(who for who in tickets if who != op.ticket)
    return after, _verdict(passed[tickets.index(op.ticket)])._replace(unpark=woken)


def _break(record: Record, broken: Broken) -> tuple[Record, tuple[Ticket, ...]]:
    """Break the barrier and let everybody who waits go with a notice."""
    notices = tuple(Notice(party.ticket, 0, record.generation, broken) for party in record.arrivals)
    there = _sessions(record.arrivals + record.members)
    after = record._replace(
        arrivals=(), members=(), lost=(), broken=broken, notices=record.notices + notices, witnesses=there
    )
    return after, tuple(party.ticket for party in record.arrivals)


def _witnessed(record: Record, session: str) -> Record:
    """Add somebody who knows that it is broken."""
    return record._replace(witnesses=tuple(dict.fromkeys((*record.witnesses, session))))


def absent(record: Record) -> tuple[tuple[str, str], ...]:
    """Who has not arrived: the last generation's other members, else the ranks that nobody answers to."""
    expected = _expected(record) + record.lost
    if expected:
        return tuple((member.ticket.session, member.label) for member in expected)
    return tuple(("", label) for label in _unseen(record))


def _unseen(record: Record) -> tuple[str, ...]:
    """The ranks that neither an arrival nor a member of the last generation answers to."""
    ranks = [str(rank) for rank in range(record.parties)]
    if not {party.label for party in record.arrivals} <= {*ranks}:
        return ()
    seen = {party.label for party in record.arrivals + _expected(record) + record.lost}
    return tuple(rank for rank in ranks if rank not in seen)


def _leave(record: Record, op: Leave) -> tuple[Record, Outcome]:
    for notice in record.notices:
        if notice.ticket == op.ticket:
            rest = tuple([other for other in record.notices if other is not notice])
            return record._replace(notices=rest), _verdict(notice)
    leaver = [party for party in record.arrivals if party.ticket == op.ticket]
    if not leaver:
        return record, Outcome("gone")
    who = f"rank {leaver[0].label}" if leaver[0].label else "a party"
    count = f"{len(record.arrivals)} of {record.parties} had arrived"
    broken = Broken(f"{who} {op.why or 'left'}: {count}", absent(record))
    others = tuple([party for party in record.arrivals if party.ticket != op.ticket])
    after, woken = _break(record._replace(arrivals=others), broken)
    return _witnessed(after, op.ticket.session), Outcome("broken", broken, unpark=woken)


def _evict(record: Record, op: Evict) -> tuple[Record, Outcome]:
    label = label_of(op.session)
    if label is not None:
        return _evict_unseen(record, op, label)
    waited = tuple(party for party in record.arrivals if party.ticket.session == op.session)
    absent = tuple(party for party in record.members if party.ticket.session == op.session)
    notices = tuple(notice for notice in record.notices if notice.ticket.session != op.session)
    witnesses = tuple(who for who in record.witnesses if who != op.session)
    if not waited and not absent and notices == record.notices and witnesses == record.witnesses:
        return record, Outcome("gone")
    rest = record._replace(
        witnesses=witnesses,
        arrivals=tuple(party for party in record.arrivals if party not in waited),
        members=tuple(party for party in record.members if party not in absent),
        notices=notices,
    )
    if not waited and not (absent and _returned(rest)):
        return rest._replace(lost=rest.lost + absent), Outcome("left")
    after, woken = _break(rest, _death(waited or absent, "while waiting" if waited else "before it arrived", op.why))
    return after, Outcome("left", unpark=woken)


def _evict_unseen(record: Record, op: Evict, label: str) -> tuple[Record, Outcome]:
    """A party that died before anybody saw it breaks the barrier for those who wait for it."""
    if label not in _unseen(record) or not record.arrivals:
        return record, Outcome("gone")
    others = tuple(other for other in absent(record) if other != ("", label))
    broken = Broken(f"a party died before it arrived: {op.why}", (("", label), *others))
    after, woken = _break(record, broken)
    return after, Outcome("left", unpark=woken)


def _death(parties: tuple[Party, ...], when: str, why: str) -> Broken:
    missing = tuple(dict.fromkeys((party.ticket.session, party.label) for party in parties))
    return Broken(f"a party died {when}" + (f": {why}" if why else ""), missing)


def _abort(record: Record, op: Abort) -> tuple[Record, Outcome]:
    if record.broken is not None:
        return record, Outcome("broken", record.broken)
    after, woken = _break(record, Broken(f"aborted: {op.reason}" if op.reason else "aborted"))
    after = _witnessed(after, op.session) if op.session else after
    return after, Outcome("broken", after.broken, unpark=woken)


def _reset(record: Record, op: Reset) -> tuple[Record, Outcome]:
    if not (record.arrivals or record.members or record.lost or record.broken):
        return record, Outcome("reset")
    after, woken = _break(record, Broken("the barrier was reset"))
    after = after._replace(broken=None, witnesses=(), generation=record.generation + 1)
    return after, Outcome("reset", unpark=woken)


_STEPS: dict[type, Step] = {
    Arrive: _arrive, Complete: _complete, Leave: _leave, Evict: _evict, Abort: _abort, Reset: _reset,
}  # fmt: skip


class Barrier(Steps):
    """The machine."""

    kind = "barrier"
    record = Record
    steps = _STEPS

    def idle(self, record: Record) -> bool:
        return not record.arrivals and not record.notices and (record.broken is None or not record.witnesses)

    def sessions(self, record: Record) -> dict[str, str]:
        parts = dict.fromkeys(_sessions(record.members) + record.witnesses, "holds")
        parts.update((notice.ticket.session, "holds") for notice in record.notices)
        parts.update((party.ticket.session, "waits") for party in record.arrivals)
        return parts

    def decode(self, line: str) -> Record:
        floor, parties, generation, arrivals, members, lost, broken, notices, witnesses = fields(
            parse(line), *Record._fields
        )
        record = Record(
            integer(floor),
            integer(parties),
            integer(generation),
            tuple(_party(row) for row in items(arrivals)),
            tuple(_party(row) for row in items(members)),
            tuple(_party(row) for row in items(lost)),
            _broken(broken),
            tuple(_notice(row) for row in items(notices)),
            tuple(session(who) for who in items(witnesses)),
        )
        distinct(party.ticket for party in record.arrivals + record.notices)
        if len(record.arrivals) > record.parties:
            raise ValueError("more arrivals than parties")
        return record


def _party(row: Any) -> Party:
    who, label = items(row)
    return Party(ticket(who), text(label))


def _broken(row: Any) -> Broken | None:
    if row is None:
        return None
    reason, missing = items(row)
    return Broken(text(reason), tuple((_absentee(who), text(label)) for who, label in map(items, items(missing))))


def _absentee(who: Any) -> str:
    return session(who) if who else text(who)


def _notice(row: Any) -> Notice:
    who, index, generation, broken = items(row)
    return Notice(ticket(who), integer(index), integer(generation), _broken(broken))


BARRIER = Barrier()
