"""The C core against the pure machines: the same operations lead to the same holders, the same row and the same news.

The machines are the specification. Where the core differs is by design:

- a release grants nobody, but the first of the row takes what came free when it looks next: so here everybody in the
  row looks after each step, in order;
- tokens of readers are not counted one by one: they are unique, and larger than those of every earlier writer;
- the news of dead permits' holders is told once for each permit, and goes before another number of permits.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
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
from interlock.abc import Evict, Leave, Outcome, Ticket
from interlock.machines.admission import LOCK, SEMAPHORE, Acquire, Admission, Downgrade, Entry, Record
from shm.conftest import Connect

SESSIONS = 4
MOST_TICKETS = 12
SERIAL = operator.attrgetter("serial")  # what is drawn must not hang on random session ids
names = (f"object-{number}" for number in itertools.count())


class Differential(RuleBasedStateMachine):
    """One object in shared memory beside its machine; `sessions` are those of this process, made once."""

    machine: Admission
    permits: tuple[int, ...]
    sessions: list[interlock.Session]

    @initialize(seated=st.booleans())
    def begin(self, seated: bool) -> None:
        """An object that nobody has used, or at which every session has its seat already."""
        self.name = next(names)
        self.store = self.sessions[0].store
        self.record: Record = self.machine.initial(0)
        self.asked: dict[Ticket, Acquire] = {}
        self.seated: dict[Ticket, interlock.Grant] = {}  # what is held by the fast face, by the machine's ticket
        self.serials = itertools.count(1_000_000)  # those of the sessions' own tickets stay far below
        self.tokens: dict[Ticket, int] = {}
        self.exclusive = 0
        self.faces: dict[Any, interlock.Lock] = {}
        self.lost = 0  # permits of evicted holders
        for number, shared in itertools.product(range(SESSIONS), (False, True)) if seated else ():
            self.take(number, shared)
            for ticket in list(self.seated):
                self.return_(ticket)

    # -- one step on both sides

    def apply(self, op: Any) -> Outcome:
        self.record, outcome = self.machine.apply(self.record, op)
        return outcome

    def both(self, op: Any) -> Outcome:
        """Apply an op here and there; what it comes to must be the same."""
        expected, found = self.apply(op), self.store.transact(self.name, self.machine, op)
        assert found.state == expected.state, f"{op}: {found} instead of {expected}"
        if expected.state == "mismatch":
            assert found.value == expected.value
        if expected.state in ("waiting", "refused"):
            assert set(found.watch) == set(expected.watch)
            assert found.position == expected.position
        return found

    def ask(self, op: Acquire) -> None:
        found = self.both(op)
        if found.state in ("granted", "waiting"):
            self.asked[op.ticket] = op
            self.noted(op.ticket, found)

    def noted(self, ticket: Ticket, found: Outcome) -> None:
        """What a grant says: the same news as the machine's, and a token that fits."""
        if found.state != "granted":
            return
        entry = self.entry(ticket)
        token, recovered, since = found.value
        assert self.tells(recovered, entry.recovered), f"{ticket}: {found} instead of {entry}"
        assert since > 0
        if ticket in self.tokens:
            assert self.tokens[ticket] == token
            return
        assert token > self.exclusive, "not larger than that of an earlier writer"
        assert token not in self.tokens.values()
        if self.machine is SEMAPHORE or not entry.shared:
            assert token > max(self.tokens.values(), default=0)
            self.exclusive = token
        self.tokens[ticket] = token

    def holders(self) -> list[Ticket]:
        """Who holds, of those that go the slow way."""
        return [entry.ticket for entry in self.record.entries if entry.token and entry.ticket in self.asked]

    def tells(self, found: bool, expected: bool) -> bool:
        """Whether the news is what the machine has, or may be another permit's that was lost."""
        return found == expected or (found and self.machine is SEMAPHORE and self.lost > 0)

    def entry(self, ticket: Ticket) -> Entry:
        return next(entry for entry in self.record.entries if entry.ticket == ticket)

    def gone(self, tickets: set[Ticket]) -> None:
        """What was taken away by others is found to be gone when it is given back."""
        for ticket in tickets:
            self.asked.pop(ticket, None)
            grant = self.seated.pop(ticket, None)
            if grant is not None:
                with pytest.raises(interlock.SessionLost):
                    grant.release()

    def face(self, session: interlock.Session, shared: bool) -> interlock.Lock:
        """The same one each time, because it is the second use that goes the fast way."""
        key = session.id, shared
        if key not in self.faces:
            rwlock = session.rwlock(self.name)
            self.faces[key] = rwlock.read() if shared else rwlock.write()
            if self.machine is SEMAPHORE:
                self.faces[key] = session.semaphore(self.name, self.permits[0])
        return self.faces[key]

    # -- the steps

    @precondition(lambda self: len(self.asked) < MOST_TICKETS)
    @rule(
        number=st.integers(0, SESSIONS - 1), shared=st.booleans(), choice=st.sampled_from((0, 0, 0, 1, 2)),
        wait=st.sampled_from((True, True, False)),
    )  # fmt: skip
    def acquire(self, number: int, shared: bool, choice: int, wait: bool) -> None:
        ticket = Ticket(self.sessions[number].id, next(self.serials))
        permits = self.permits[choice % len(self.permits)]
        if self.record.permits and (choice == 0 or self.lost):
            permits = self.record.permits
        self.ask(Acquire(ticket, shared or bool(permits), permits, wait, 1))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        self.ask(self.asked[data.draw(st.sampled_from(sorted(self.asked, key=SERIAL)))])

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), why=st.sampled_from(("", "", "timed out")))
    def leave(self, data: st.DataObject, why: str) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.asked, key=SERIAL)))
        self.both(Leave(ticket, 1, why))
        self.gone({ticket})

    @rule(number=st.integers(0, SESSIONS - 1))
    def leave_what_is_not_there(self, number: int) -> None:
        self.both(Leave(Ticket(self.sessions[number].id, next(self.serials)), 1))

    @rule(number=st.integers(0, SESSIONS - 1))
    def evict(self, number: int) -> None:
        session = self.sessions[number].id
        self.lost += sum(entry.ticket.session == session and entry.token > 0 for entry in self.record.entries)
        self.both(Evict(session, 1))
        self.gone({ticket for ticket in [*self.asked, *self.seated] if ticket.session == session})

    @precondition(lambda self: self.machine is LOCK and self.holders())
    @rule(data=st.data())
    def downgrade(self, data: st.DataObject) -> None:
        self.both(Downgrade(data.draw(st.sampled_from(self.holders())), 1))

    @rule(number=st.integers(0, SESSIONS - 1), shared=st.booleans())
    def take_as_well(self, number: int, shared: bool) -> None:
        """So that what goes the fast way happens often."""
        self.take(number, shared)

    @rule(number=st.integers(0, SESSIONS - 1), shared=st.booleans())
    def take(self, number: int, shared: bool) -> None:
        """Try once by the fast face, from the session's seat."""
        session = self.sessions[number]
        if any(grant._lock._session is session for grant in self.seated.values()):
            return  # this thread holds it already
        shared = shared or self.machine is SEMAPHORE
        ticket = Ticket(session.id, next(self.serials))
        permits = self.permits[0]
        if self.record.permits not in (0, permits):
            return
        expected = self.apply(Acquire(ticket, shared, permits, False, 1))
        if self.machine is SEMAPHORE and not self.record.entries:
            assert expected.state == "granted"
        grant = self.face(session, shared).try_acquire()
        assert (grant is not None) == (expected.state == "granted")
        if grant is not None:
            self.seated[ticket] = grant
            self.noted(ticket, Outcome("granted", (grant.token, grant.recovered, 1)))

    @precondition(lambda self: self.seated)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.return_(data.draw(st.sampled_from(sorted(self.seated, key=SERIAL))))

    def return_(self, ticket: Ticket) -> None:
        assert self.apply(Leave(ticket, 1)).state == "left"
        self.seated.pop(ticket).release()

    @precondition(lambda self: self.machine is LOCK and self.seated)
    @rule(data=st.data())
    def weaken(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.seated, key=SERIAL)))
        assert self.apply(Downgrade(ticket, 1)).state == "granted"
        self.seated[ticket].downgrade()

    # -- what must be the same after each

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "record"):
            return
        for entry in self.record.entries:
            if entry.ticket in self.asked:
                found = self.store.transact(self.name, self.machine, self.asked[entry.ticket])
                assert found.state == ("granted" if entry.token else "waiting"), f"{entry}: {found}"
                self.noted(entry.ticket, found)
        stored = self.store.read(self.name)
        seen: Record = self.machine.decode(stored.text) if stored else self.machine.initial(0)
        known = {grant._ticket: ticket for ticket, grant in self.seated.items()}
        entries = [entry._replace(ticket=known.get(entry.ticket, entry.ticket)) for entry in seen.entries]
        assert self.parts(entries, holds=True, keep_order=False) == self.parts(self.record.entries, True, False)
        assert self.parts(entries, holds=False) == self.parts(self.record.entries, False)
        assert self.tells(seen.recovered, self.record.recovered)
        for entry in entries:
            assert entry.token in (0, self.tokens.get(entry.ticket))
        if seen.entries and self.machine is SEMAPHORE:
            assert seen.permits == self.record.permits

    def parts(self, entries: Any, holds: bool, keep_order: bool = True) -> Any:
        found = [(entry.ticket, entry.shared) for entry in entries if bool(entry.token) == holds]
        return found if keep_order else sorted(found)

    def teardown(self) -> None:
        for session in self.sessions if hasattr(self, "name") else ():
            self.store.transact(self.name, self.machine, Evict(session.id))
        self.gone(set(self.seated) if hasattr(self, "name") else set())


@pytest.fixture
def sessions(connect: Connect) -> list[interlock.Session]:
    """Some participants in one scope, all of this process."""
    return [connect() for _ in range(SESSIONS)]


def check(sessions: list[interlock.Session], machine: Admission, permits: tuple[int, ...], examples: int) -> None:
    """Walk at random, and shrink what fails."""
    case = type("Case", (Differential,), {"machine": machine, "permits": permits, "sessions": sessions})
    run_state_machine_as_test(
        case,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


KINDS = {"lock": (LOCK, (0,)), "semaphore": (SEMAPHORE, (2, 1, 3))}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_core_does_what_the_machine_does(sessions: list[interlock.Session], kind: str) -> None:
    """Random operations of four sessions lead to the same answers, holders, row and news on both sides."""
    check(sessions, *KINDS[kind], examples=60)


class Forgetful(Admission):
    """A machine that does not keep the news of a death, to which the core must then not be the same."""

    def apply(self, record: Record, op: Any) -> tuple[Record, Outcome]:
        after, outcome = super().apply(record, op)
        return (after._replace(recovered=False) if isinstance(op, Evict) else after), outcome


def test_a_difference_is_found(sessions: list[interlock.Session]) -> None:
    """Negative control: beside a machine with one fault the core is found to be different."""
    with pytest.raises((AssertionError, ExceptionGroup)):
        check(sessions, Forgetful("lock"), (0,), examples=60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_core_does_what_the_machine_does_for_long(sessions: list[interlock.Session], kind: str) -> None:
    """The same over five thousand walks."""
    check(sessions, *KINDS[kind], examples=5000)
