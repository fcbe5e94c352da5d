"""What every step of every machine must keep, written once for the explorer, the property tests and the mutants.

`examine` applies one op and checks all of it:

- the laws that all machines share (the contract in ``interlock.abc``): purity, idempotence, the very same record when
  nothing changed, tokens that never fall, tickets that stand once, wake-ups for all whose standing changed, and a
  record that survives its own encoding;
- the laws of its kind, in two functions per kind: ``*_record`` looks at one record, ``*_step`` at what changed. They
  say in their own words what a record means and call nothing of the machine but `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket, label_of


class Violation(AssertionError):
    """A machine broke a law."""


def need(condition: object, law: str) -> None:
    """Fail with the law's words unless it holds."""
    if not condition:
        raise Violation(law)


class Step(NamedTuple):
    """One application of an op."""

    before: Any
    op: Any
    after: Any
    outcome: Outcome

    def removes(self, ticket: Ticket) -> bool:
        """Whether the op leaves with this ticket, alone or with its whole session."""
        if isinstance(self.op, Evict):
            return ticket.session == self.op.session
        return isinstance(self.op, Leave) and self.op.ticket == ticket


def examine(module: ModuleType, machine: Any, record: Any, op: Any, requests: Mapping[Ticket, Any]) -> Step:
    """Apply `op` and check every law; `requests` tells with which op each ticket was submitted."""
    after, outcome = machine.apply(record, op)
    step = Step(record, op, after, outcome)
    need(machine.apply(record, op) == (after, outcome), "apply is pure")
    need(after is record or after != record, "the very same record comes back when nothing changed")
    _idempotent(machine, step)
    need(_read_back(machine, after) == after, "decode(encode(record)) is the record")
    need(machine.token(after) >= machine.token(record), "tokens never fall")
    standing = tickets(machine.kind, after)
    need(len(set(standing)) == len(standing), "a ticket stands once")
    known, asking = tickets(machine.kind, record), getattr(op, "ticket", None)
    need(set(standing) <= {*known, asking}, "nobody appears unasked")
    if not getattr(op, "wait", True) and asking not in known:
        need(outcome.state != WAITING, "who tries once does not wait")
        need(outcome.state != "refused" or after is record, "a refused try leaves nothing behind")
    _woken(machine, step, requests)
    parts = machine.sessions(after)
    need({ticket.session for ticket in standing} <= set(parts), "every session with a ticket has a part")
    need(not isinstance(op, Evict) or op.session not in parts, "an evicted session has no part")
    check_record, check_step = KINDS[machine.kind]
    check_record(module, after)
    check_step(module, step)
    return step


def tickets(kind: str, record: Any) -> list[Ticket]:
    """Every ticket that still has a part in the record and can be left with, in arrival order."""
    if kind in ("lock", "semaphore"):
        return [entry.ticket for entry in record.entries]
    if kind == "barrier":
        return [place.ticket for place in record.notices + record.arrivals]
    if kind == "event":
        return [waiter.ticket for waiter in record.waiters]
    if kind == "once":
        return list(record.owed + record.claims)
    return [seat.ticket for seat in record.seats if seat.state in ("waits", "writes")] + [
        waiting.ticket for waiting in record.queue
    ]


def _read_back(machine: Any, record: Any) -> Any:
    try:
        return machine.decode(machine.encode(record))
    except ValueError as error:
        raise Violation(f"a record that decode refuses: {error}") from None


def _idempotent(machine: Any, step: Step) -> None:
    again, repeated = machine.apply(step.after, step.op)
    need(again is step.after, "a repeated op changes nothing")
    need(not repeated.unpark, "a repeated op wakes nobody")
    if isinstance(step.op, Leave | Evict):
        return  # giving back is reported once; the second time there is nothing left to give
    need((repeated.state, repeated.value) == (step.outcome.state, step.outcome.value), "a repeated op reports the same")


def _woken(machine: Any, step: Step, requests: Mapping[Ticket, Any]) -> None:
    """Whoever waited and would now be told otherwise is in `unpark`, unless the step was its own."""

    def state(record: Any, ticket: Ticket) -> str:
        found: str = machine.apply(record, requests[ticket])[1].state
        return found

    before = tickets(machine.kind, step.before)
    need(set(step.outcome.unpark) <= set(before), "only those in the record are woken")
    for ticket in before:
        own = step.removes(ticket) or getattr(step.op, "ticket", None) == ticket
        if own or ticket in step.outcome.unpark or state(step.before, ticket) != WAITING:
            continue
        need(state(step.after, ticket) == WAITING, f"{ticket} no longer waits and is woken")


def admission_record(module: ModuleType, record: Any) -> None:
    """Exclusion, permits, first come first served, and a grantable head is granted."""
    holding = [entry for entry in record.entries if entry.token]
    waiting = [entry for entry in record.entries if not entry.token]
    writers = [entry for entry in holding if not entry.shared]
    need(record.entries == (*holding, *waiting), "nobody holds behind one that waits")
    order = [entry.token for entry in holding]
    need(order == sorted(set(order)) and all(token <= record.token for token in order), "tokens grow along the row")
    need(len(writers) <= 1 and (not writers or len(holding) == 1), "an exclusive holder is alone")
    need(not record.permits or len(holding) <= record.permits, "no more holders than permits")
    need(len(record.entries) <= module.LIMIT, "the row is bounded")
    if waiting:
        full = record.permits and len(holding) >= record.permits
        need(holding, "somebody holds while others wait")
        need(writers or not waiting[0].shared or full, "the first that waits does not fit")


def admission_step(module: ModuleType, step: Step) -> None:
    """Arrival order is kept, each grant takes the next token, and news of a death is kept until it is told."""
    row = [entry.ticket for entry in step.after.entries]
    stayed = [entry.ticket for entry in step.before.entries if not step.removes(entry.ticket)]
    need(row[: len(stayed)] == stayed and len(row) <= len(stayed) + 1, "arrival order is kept")
    standing = {entry.ticket: entry for entry in step.before.entries}
    fresh = [entry for entry in step.after.entries if entry.token and not _held(standing.get(entry.ticket))]
    numbers = [entry.token for entry in fresh]
    need(numbers == list(range(step.before.token + 1, step.after.token + 1)), "each grant takes the next token")
    for entry in step.after.entries:
        old = standing.get(entry.ticket)
        if _held(old) and not (isinstance(step.op, module.Downgrade) and step.op.ticket == entry.ticket):
            need(entry == old, "a hold is not touched by others")
    if isinstance(step.op, module.Downgrade):
        need(len(stayed) == len(step.before.entries), "a downgrade gives nothing up")
    guarded = [entry for entry in step.before.entries if _guards(step.before, entry) and step.removes(entry.ticket)]
    died = isinstance(step.op, Evict) and bool(guarded)
    unread = isinstance(step.op, Leave) and step.op.why and any(entry.recovered for entry in guarded)
    if died or unread or step.before.recovered:
        need(step.after.recovered or any(_guards(step.after, entry) for entry in fresh), "the next holder can repair")
        for entry in fresh:
            need(entry.recovered, "whoever comes next is told of the death")
            if _guards(step.after, entry):
                break


def _held(entry: Any) -> bool:
    return entry is not None and bool(entry.token)


def _guards(record: Any, entry: Any) -> bool:
    """Whether the entry's holder may change what is guarded: not a reader."""
    return _held(entry) and bool(record.permits or not entry.shared)


def barrier_record(module: ModuleType, record: Any) -> None:
    """Arrivals and a verdict never stand side by side, and a full generation can be completed by any of its parties."""
    need(not (record.arrivals and record.broken), "nobody waits at a broken barrier")
    need(len(record.arrivals) <= record.parties, "no more arrivals than parties")
    need(len(record.arrivals) + len(record.notices) <= module.LIMIT, "the record is bounded")
    members, arrived = ({place.ticket.session for place in row} for row in (record.members, record.arrivals))
    need(not record.lost or members.isdisjoint(arrived), "nobody who comes back waits for the dead")
    for index, party in enumerate(record.arrivals):
        asked = module.Arrive(party.ticket, record.parties, party.label)
        _, outcome = module.BARRIER.apply(record, asked)
        if len(record.arrivals) == record.parties:
            others = {other.ticket.session for other in record.arrivals} - {party.ticket.session}
            need(isinstance(outcome.then, module.Complete), "a full generation can be completed")
            need(set(outcome.watch) == others, "whoever completes looks at all others")
        else:
            ahead = record.arrivals[index - 1].ticket.session
            need(outcome.then is None, "only a full generation can be completed")
            need(ahead in outcome.watch or ahead == party.ticket.session, "the waiting watch one another in a ring")
            missed = members - arrived if index == 0 else set()
            need(missed <= set(outcome.watch), "the first to wait watches who has not come back")


def barrier_step(module: ModuleType, step: Step) -> None:
    """All parties pass together or none does; a verdict stays until its ticket leaves."""
    before, op, after, _ = step
    told = {notice.ticket: notice for notice in after.notices}
    for notice in before.notices:
        need(
            step.removes(notice.ticket) or told.get(notice.ticket) == notice, "a verdict is kept until it is collected"
        )
    fresh = [notice for notice in after.notices if notice not in before.notices]
    passed = [notice for notice in fresh if notice.broken is None]
    left = [party.ticket for party in before.arrivals if party.ticket not in {p.ticket for p in after.arrivals}]
    verdicts = {notice.ticket for notice in fresh}
    need(set(left) - verdicts == {who for who in left if step.removes(who)}, "whoever waited learns a verdict")
    if passed:
        need(isinstance(op, module.Complete), "a generation is completed by request only")
        need(len(passed) == before.parties == len(before.arrivals), "all parties pass together")
        need(sorted(notice.place for notice in passed) == list(range(before.parties)), "each has its own place")
        need(all(notice.generation == before.generation for notice in passed), "the generation is the one collected")
    elif left:
        need(after.broken or isinstance(op, module.Reset), "a party that goes breaks the barrier")
    need(after.generation - before.generation in (0, 1), "generations count up")
    forgotten = isinstance(op, module.Arrive) and not op.lasting and bool(before.broken) and not before.witnesses
    anew = isinstance(op, module.Reset) or forgotten
    need(bool(passed) or anew or after.generation == before.generation, "one per passage")
    need(after.broken == before.broken or not before.broken or anew, "broken until reset, or until all have forgotten")
    known = {who for who in before.witnesses if not isinstance(op, Evict) or op.session != who}
    need(known <= set(after.witnesses) or anew, "a witness is one until it ends")


def event_record(module: ModuleType, record: Any) -> None:
    """Nobody waits for a flag that is set."""
    need(not record.flag or all(waiter.released for waiter in record.waiters), "a set flag lets all go")
    need(len(record.waiters) <= module.LIMIT, "the waiters are bounded")


def event_step(module: ModuleType, step: Step) -> None:
    """A waiter leaves by its own request or its session's eviction only, and once released stays so."""
    standing = {waiter.ticket: waiter for waiter in step.after.waiters}
    for waiter in step.before.waiters:
        need(step.removes(waiter.ticket) or waiter.ticket in standing, "a waiter is not forgotten")
        if waiter.released and waiter.ticket in standing:
            need(standing[waiter.ticket].released, "once let go, always let go")
    if isinstance(step.op, Leave) and step.op.ticket not in standing:
        known = [waiter for waiter in step.before.waiters if waiter.ticket == step.op.ticket]
        need(not known or (step.outcome.state == "set") == known[0].released, "leaving tells whether it was let go")
    if step.after.flag != step.before.flag:
        need(isinstance(step.op, module.Set if step.after.flag else module.Clear), "the flag changes by request")


def once_record(module: ModuleType, record: Any) -> None:
    """One result, and none beside running work."""
    results = (record.value is not None) + (record.error is not None)
    need(results + (bool(record.claims) and not record.owed) <= 1, "one result, or work")
    need(results or not record.owed, "what is owed is there")
    need(len(record.claims + record.owed) <= module.LIMIT, "claims and debts are bounded")


def once_step(module: ModuleType, step: Step) -> None:
    """Claims are served in order, the worker alone publishes, each attempt has its own number."""
    before, op, after, _ = step
    stayed = [who for who in before.claims if not step.removes(who)]
    if isinstance(op, module.Claim) and before.owed and op.ticket not in before.owed:
        need(step.outcome.state not in ("done", "failed"), "whoever comes later starts anew")
    publishes = isinstance(op, module.Publish | module.Fail)
    settled = publishes and bool(before.claims) and not after.claims
    if settled:
        need(op.ticket == before.claims[0], "the worker publishes")
        need(after.value == getattr(op, "value", None) and after.error == getattr(op, "error", None), "what it said")
        need(after.owed == (() if op.keep else before.owed + before.claims), "it is owed to all who had claimed")
    else:
        need((after.value, after.error) in ((before.value, before.error), (None, None)), "only a worker gives results")
        owed = [who for who in before.owed if not step.removes(who)]
        need(list(after.owed) == owed or isinstance(op, module.Forget), "a debt stands until its creditor leaves")
        need(list(after.claims[: len(stayed)]) == stayed and len(after.claims) <= len(stayed) + 1, "order is kept")
    kept = before.value is not None and not before.owed
    need(not kept or after.value == before.value or isinstance(op, module.Forget), "a kept value stays")
    begun = after.claims[:1] not in ((), before.claims[:1])
    need(after.attempts == before.attempts + begun, "each attempt is counted")
    if isinstance(op, Evict) and before.claims and step.removes(before.claims[0]):
        need(after.lost == op.session, "the next worker is told of the death")
    need(not before.lost or after.lost or settled, "news of a death stays until there is a result")


def fence_record(module: ModuleType, record: Any) -> None:
    """One writer at most, none once there is a result, and one as soon as a party may write."""
    writers = [seat for seat in record.seats if seat.state == "writes"]
    waiting = [seat for seat in record.seats if seat.state == "waits"]
    results = [record.value is not None, record.error is not None, record.died]
    need(sum(results) <= 1, "one result")
    need(len(writers) <= (not any(results)), "one writer, until there is a result")
    able = [seat for seat in waiting if record.writer in ("", seat.label)]
    need(any(results) or writers or not able, "whoever may write does")
    need(len(record.seats) + len(record.queue) <= module.LIMIT, "seats and queue are bounded")
    labels = [seat.label for seat in record.seats]
    need(len(set(labels)) == len(labels), "a label has one seat")


def fence_step(module: ModuleType, step: Step) -> None:
    """The writer alone gives the turn its result, which stays until the next turn; nobody loses its place."""
    before, op, after, outcome = step
    result = (before.value, before.error, before.died)
    if isinstance(op, module.Beat) and op.ticket not in [s.ticket for s in before.seats if s.state == "writes"]:
        need(after is before and outcome.state == "gone", "the writer alone gives signs of life")
    need(after.epoch - before.epoch in (0, 1), "turns count up")
    if after.epoch > before.epoch:
        need(isinstance(op, Leave | Evict), "a turn ends when somebody leaves it")
        need(all(step.removes(who) for who in _seated(before)), "a turn ends when nobody has anything left to do in it")
        had = sum(seat.state != "away" or step.removes(seat.ticket) for seat in before.seats) + len(before.absent)
        had += isinstance(op, Evict) and label_of(op.session) is not None
        need(not before.lasting or result == (None, None, False) or had >= before.parties, "all had a lasting result")
    elif result != (None, None, False):
        need((after.value, after.error, after.died) == result, "a result stays for the whole turn")
    elif (after.value, after.error) != (None, None):
        writers = [seat.ticket for seat in before.seats if seat.state == "writes"]
        need(isinstance(op, module.Publish | module.Fail) and [op.ticket] == writers, "the writer publishes")
    stayed = [who for who in tickets("fence", before) if not step.removes(who)]
    need(set(stayed) <= set(tickets("fence", after)), "nobody is forgotten")
    queue = [waiting.ticket for waiting in before.queue if not step.removes(waiting.ticket)]
    if after.epoch == before.epoch:
        need([waiting.ticket for waiting in after.queue][: len(queue)] == queue, "the queue keeps its order")
    if isinstance(op, Evict) and any(seat.state == "writes" and step.removes(seat.ticket) for seat in before.seats):
        need(after.lost == op.session or after.died, "a writer's death is told")
    if isinstance(op, Leave) and result != (None, None, False) and op.ticket in _seated(before):
        need(outcome.state in ("done", "failed", "died"), "whoever leaves a settled turn learns its result")


def _seated(record: Any) -> list[Ticket]:
    return [seat.ticket for seat in record.seats if seat.state in ("waits", "writes")]


Check = Callable[[ModuleType, Any], None]
KINDS: dict[str, tuple[Check, Check]] = {
    "lock": (admission_record, admission_step),
    "semaphore": (admission_record, admission_step),
    "barrier": (barrier_record, barrier_step),
    "event": (event_record, event_step),
    "once": (once_record, once_step),
    "fence": (fence_record, fence_step),
}
