"""Once in the C core against its pure machine: the same worker, the same row, the same results for the same tickets.

The machine is the specification. Where the core differs is by design:

- a release or a result calls tickets, and each learns of it when it looks next: so here every ticket that stands asks
  again after each step, on both sides, and those who came last first, so that one who overtakes is found;
- attempts are not counted one by one: their numbers only grow, until the object is removed;
- an eviction does not say whether the object is idle now.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import interlock
from interlock import values
from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket
from interlock.machines.once import LIMIT_BYTES, ONCE, Claim, Fail, Forget, Once, Publish, Record
from shm.conftest import Connect

SESSIONS = 4
MOST_TICKETS = 12
SERIAL = operator.attrgetter("serial")  # what is drawn must not hang on random session ids
names = (f"object-{number}" for number in itertools.count())


class Differential(RuleBasedStateMachine):
    """One object in shared memory beside its machine; `sessions` are those of this process, made once."""

    machine: Once
    sessions: list[interlock.Session]

    @initialize()
    def begin(self) -> None:
        self.name = next(names)
        self.store = self.sessions[0].store
        self.record: Record = self.machine.initial(0)
        self.known: list[Ticket] = []  # every ticket that has claimed
        self.standing: list[Ticket] = []  # those that may have a place at the object, in the order of arrival
        self.serials = itertools.count(1_000_000)  # those of the sessions' own tickets stay far below
        self.results = itertools.count()
        self.attempts: dict[Ticket, int] = {}  # of those who work, or did when they looked last
        self.last = 0
        self.faces = [interlock.Once(session, self.name, timeout=0) for session in self.sessions]

    # -- one step on both sides

    def both(self, op: Any) -> Outcome:
        """Apply an op here and there; what it comes to must be the same."""
        self.record, expected = self.machine.apply(self.record, op)
        found = self.store.transact(self.name, ONCE, op)
        told = f"{str(op)[:200]}: {found} instead of {expected}"
        assert (found.state, found.then) == (expected.state, expected.then), told
        if found.state == "yours":
            self.works(op.ticket, *found.value)
            assert found.value[1] == expected.value[1], told
        elif not isinstance(op, Evict):
            assert found.value == expected.value, told
        if found.state in (WAITING, "refused"):
            assert (found.watch, found.position) == (expected.watch, expected.position), told
        return found

    def works(self, ticket: Ticket, attempt: int, lost: str) -> None:
        """Who works learns the same number each time, and a larger one than everybody before."""
        if ticket not in self.attempts:
            assert attempt > self.last
            self.attempts[ticket] = self.last = attempt
        assert self.attempts[ticket] == attempt

    def ask(self, op: Claim) -> None:
        """Claim, for the first time or again."""
        if op.ticket not in self.record.claims + self.record.owed:
            self.gone(op.ticket)
        found = self.both(op)
        if found.state not in (WAITING, "yours") and found.then is None:
            self.gone(op.ticket)
        elif op.ticket not in self.standing:
            self.standing.append(op.ticket)

    def gone(self, ticket: Ticket) -> None:
        self.attempts.pop(ticket, None)
        if ticket in self.standing:
            self.standing.remove(ticket)

    # -- the steps

    @precondition(lambda self: len(self.standing) < MOST_TICKETS)
    @rule(number=st.integers(0, SESSIONS - 1), retry=st.booleans(), wait=st.sampled_from((True, True, False)))
    def claim(self, number: int, retry: bool, wait: bool) -> None:
        ticket = Ticket(self.sessions[number].id, next(self.serials))
        self.known.append(ticket)
        self.ask(Claim(ticket, retry, wait))

    @precondition(lambda self: len(self.standing) < MOST_TICKETS)
    @rule(number=st.integers(0, SESSIONS - 1), retry=st.booleans())
    def claim_as_well(self, number: int, retry: bool) -> None:
        """So that there is often a row."""
        self.claim(number, retry, True)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), wait=st.booleans())
    def claim_again(self, data: st.DataObject, wait: bool) -> None:
        """Whoever asks again has been told of an error that came before, if at all."""
        self.ask(Claim(data.draw(st.sampled_from(self.known)), False, wait))

    @precondition(lambda self: self.record.claims)
    @rule(fails=st.booleans(), keep=st.booleans())
    def settle(self, fails: bool, keep: bool) -> None:
        """The worker's result."""
        self.publish(self.record.claims[0], fails, keep)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), fails=st.booleans(), keep=st.booleans())
    def settle_as_anybody(self, data: st.DataObject, fails: bool, keep: bool) -> None:
        """The result of one who works, has worked, or never did."""
        self.publish(data.draw(st.sampled_from(self.known)), fails, keep)

    def publish(self, ticket: Ticket, fails: bool, keep: bool) -> None:
        number = next(self.results)
        if fails:
            self.both(Fail(ticket, values.encode_error(LookupError(number), "somebody"), keep))
        else:
            self.both(Publish(ticket, values.encode(number), keep))
        if ticket not in self.record.claims:
            self.attempts.pop(ticket, None)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), fails=st.booleans(), keep=st.booleans())
    def settle_too_much(self, data: st.DataObject, fails: bool, keep: bool) -> None:
        """A result longer than a record may carry, by anybody."""
        ticket, text = data.draw(st.sampled_from(self.known)), "x" * (LIMIT_BYTES + 1)
        self.both(Fail(ticket, text, keep) if fails else Publish(ticket, text, keep))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), why=st.sampled_from(("", "timed out")))
    def leave(self, data: st.DataObject, why: str) -> None:
        ticket = data.draw(st.sampled_from(self.known))
        self.both(Leave(ticket, 1, why))
        self.gone(ticket)

    @precondition(lambda self: self.record.owed)
    @rule(data=st.data())
    def leave_with_a_result(self, data: st.DataObject) -> None:
        """So that owed results often go with the last one."""
        ticket = data.draw(st.sampled_from(sorted(self.record.owed, key=SERIAL)))
        self.both(Leave(ticket, 1))
        self.gone(ticket)

    @rule(number=st.integers(0, SESSIONS - 1))
    def evict(self, number: int) -> None:
        session = self.sessions[number].id
        self.both(Evict(session, 1))
        for ticket in [ticket for ticket in self.standing if ticket.session == session]:
            self.gone(ticket)

    @precondition(lambda self: self.record.claims)
    @rule()
    def evict_the_worker(self) -> None:
        """So that deaths at work happen often."""
        self.evict([session.id for session in self.sessions].index(self.record.claims[0].session))

    @precondition(lambda self: self.known)
    @rule()
    def forget(self) -> None:
        self.both(Forget())

    @precondition(lambda self: self.known)
    @rule()
    def clear_up(self) -> None:
        """An idle object goes, and only an idle one."""
        there = self.store.read(self.name) is not None
        retired = self.store.retire(self.name, ONCE)
        assert retired == (there and self.machine.idle(self.record))
        self.last = 0 if retired else self.last
        if self.machine.idle(self.record):
            self.record = self.machine.initial(0)

    @rule(number=st.integers(0, SESSIONS - 1))
    def run(self, number: int) -> None:
        """An object of the user's, which may remember what it read, has what is kept, and nothing else."""
        face = self.faces[number]
        if self.record.owed or (self.record.value, self.record.error) == (None, None):
            with pytest.raises(interlock.AcquireTimeout) if self.record.claims else pytest.raises(Interrupted):
                face.run(interrupt)
        elif self.record.value is not None:
            assert face.run(interrupt) == values.decode(self.record.value)
        else:
            with pytest.raises(LookupError) as told:
                face.run(interrupt)
            assert told.value.args == values.decode_error(self.record.error or "").args

    # -- what must be the same after each

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "record"):
            return
        for ticket in self.standing[::-1]:
            self.ask(Claim(ticket))
        stored = self.store.read(self.name)
        seen: Record = self.machine.decode(stored.text) if stored else self.machine.initial(0)
        expected = self.record._replace(floor=seen.floor, attempts=seen.attempts)
        assert seen == expected, f"{seen} instead of {expected}"
        assert stored is None or stored.version >= self.last

    def teardown(self) -> None:
        for session in self.sessions if hasattr(self, "name") else ():
            self.store.transact(self.name, ONCE, Evict(session.id))


class Interrupted(BaseException):
    """Ends work so that it is the next one's."""


def interrupt() -> None:
    raise Interrupted


@pytest.fixture
def sessions(connect: Connect) -> list[interlock.Session]:
    """Some participants in one scope, all of this process."""
    return [connect() for _ in range(SESSIONS)]


def check(sessions: list[interlock.Session], machine: Once, examples: int, *phases: Phase) -> None:
    """Walk at random, and shrink what fails."""
    case = type("Case", (Differential,), {"machine": machine, "sessions": sessions})
    run_state_machine_as_test(
        case,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            phases=phases or tuple(Phase),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_core_does_what_the_machine_does(sessions: list[interlock.Session]) -> None:
    """Random operations of four sessions lead to the same answers, worker, row, results and news on both sides."""
    check(sessions, ONCE, 150)


class Forgetful(Once):
    """A machine that does not keep who died at work."""

    def apply(self, record: Record, op: Any) -> tuple[Record, Outcome]:
        after, outcome = super().apply(record, op)
        return (after._replace(lost="") if isinstance(op, Evict) else after), outcome


class Generous(Once):
    """A machine that keeps every result."""

    def apply(self, record: Record, op: Any) -> tuple[Record, Outcome]:
        return super().apply(record, op._replace(keep=True) if isinstance(op, Publish | Fail) else op)


class Obstinate(Once):
    """A machine that never lets an error be tried again."""

    def apply(self, record: Record, op: Any) -> tuple[Record, Outcome]:
        return super().apply(record, op._replace(retry=False) if isinstance(op, Claim) else op)


@pytest.mark.parametrize("machine", [Forgetful, Generous, Obstinate])
def test_a_difference_is_found(sessions: list[interlock.Session], machine: type[Once]) -> None:
    """Negative control: beside a machine with one fault the core is found to be different."""
    with pytest.raises((AssertionError, ExceptionGroup)):
        check(sessions, machine(), 60, Phase.generate)


@pytest.mark.slow
def test_the_core_does_what_the_machine_does_for_long(sessions: list[interlock.Session]) -> None:
    """The same over three thousand walks."""
    check(sessions, ONCE, 3000)
