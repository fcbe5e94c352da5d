"""Every run there can be: a breadth-first search over a machine, a few parties and a faulty network.

A state is the record, where each party is in its program, one request that the network may hold back, and what is
left of the run's faults. Each party behaves as the script of ``interlock._script`` does: it submits its request until
it is settled, looks at whom it is behind, evicts the dead, submits what the machine asks it to submit `then`, and
leaves when its time is over. From each state the search takes every step that could come next:

- *deliver*: a party's request is applied and answered. A party that waits may ask again at any time: so a wake-up may
  be lost or come, which makes no difference to safety, and `laws` checks at each step that all due ones are sent;
- *lose*: the request is applied but its answer is lost, and the party submits the same again under the same ticket;
- *delay*: the network keeps a copy of the request (the ghost), to be delivered later or never. The store's rule is
  modelled as it stands: a copy whose record was written meanwhile is rejected, and leaving or evicting always writes;
- *expire*: a party's time is over, before or after its request has come through, and it leaves;
- *crash*: a party stops for good, wherever it is. From then on those behind it can prove it.

How many faults of each kind a run can have is the model's `faults`. What must hold at each step is in `laws`; what the
parties themselves believe is checked by the model in each state; and once all states are known, each must have a way
to the end of all living parties *without any further fault*: no dead end, no lost grant, no wait for the dead.
"""

from __future__ import annotations

import gc
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from interlock.abc import WAITING, Evict, Leave, Outcome, Ticket
from machines.laws import Step, Violation, examine, need, tickets


class Party(NamedTuple):
    """One participant.

    step:   how far it is in its program; `serial` numbers its tickets.
    phase:  ``ask`` (submit a request until it is settled), ``then`` (what the machine asked for), ``evict``, ``hold``
            (it has what it asked for), ``act`` (an op on what it has, submitted before), ``leave`` (it gives up),
            ``end``, ``dead``.
    op:     what it submits next; None at the end.
    seen:   what it was told so far, for the model's own checks.
    """

    step: int
    serial: int
    phase: str
    op: Any
    seen: tuple[Any, ...] = ()


class Faults(NamedTuple):
    """How many of each may still happen."""

    crash: int = 1
    lose: int = 1
    delay: int = 1
    expire: int = 1


ONE_OF_EACH = Faults()


class State(NamedTuple):
    """Everything that matters for what can come next; `memo` is the model's own memory."""

    record: Any
    parties: tuple[Party, ...]
    ghost: Any
    faults: Faults
    memo: Any


Move = tuple[Any, ...]  # what happened, to whom, and with which op: put into words only for a run that fails


class Report(NamedTuple):
    """How much was explored."""

    states: int
    moves: int
    ends: int


class Model:
    """Parties with programs on one machine. Subclasses say what is asked for and what is done with the answers."""

    behind: Mapping[int, int] = {}  # a party, and the one that must begin before it: equal programs need one order
    mortal: tuple[int, ...] = ()  # who may crash
    faults = ONE_OF_EACH
    certain: tuple[str, ...] = ()  # phases whose answers are never lost
    leaves_always_write = True  # the store's rule against the ghost
    memo: Any = None

    def __init__(self, module: ModuleType, machine: Any, size: int) -> None:
        self.module, self.machine, self.size = module, machine, size
        self.mortal = tuple(range(size))
        self.requests: dict[Ticket, Any] = {}

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        """What the party asks for at this step of its program, or None when its program is over."""
        raise NotImplementedError

    def again(self, who: int, request: Any) -> Any:
        """What it asks once the first answer was to wait."""
        return request

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        """The party after its request was settled."""
        raise NotImplementedError

    def acted(self, state: State, who: int, outcome: Outcome) -> Party:
        """The party after an op on what it has was answered."""
        return self.onward(who, state.parties[who])

    def gave_up(self, state: State, who: int, outcome: Outcome) -> Party:
        """The party after it left because its time was over."""
        return self.onward(who, state.parties[who])

    def crashed(self, state: State, who: int) -> Any:
        """The model's memory after a crash."""
        return state.memo

    def stepped(self, memo: Any, step: Step) -> Any:
        """The model's memory after a step of the machine, whether or not its answer is heard."""
        return memo

    def told(self, memo: Any, state: State, who: int, outcome: Outcome) -> Any:
        """The model's memory after an answer was heard."""
        return memo

    def check(self, state: State) -> None:
        """Check what the parties believe."""

    def start(self) -> State:
        nobody = Party(-1, -1, "end", None)
        parties = tuple(self.onward(who, nobody) for who in range(self.size))
        return State(self.machine.initial(0), parties, None, self.faults, self.memo)

    def onward(self, who: int, party: Party, *seen: Any) -> Party:
        """The party at the next step of its program."""
        return self.asking(who, party, party.step + 1, *seen)

    def asking(self, who: int, party: Party, step: int, *seen: Any) -> Party:
        """The party at the beginning of a step, with a new ticket."""
        ticket = Ticket(name(who), party.serial + 1)
        request = self.request(who, step, ticket)
        if request is None:
            return Party(step, party.serial, "end", None, party.seen + seen)
        self.requests[ticket] = request
        return Party(step, ticket.serial, "ask", request, party.seen + seen)

    def ticket(self, state: State, who: int) -> Ticket:
        return Ticket(name(who), state.parties[who].serial)

    def known(self, state: State, who: int) -> bool:
        """Whether the others could know of the party, so that its death need not be waited for."""
        return True

    def begun(self, state: State, who: int) -> bool:
        """Whether the party has come into the record."""
        party = state.parties[who]
        if party.step or party.phase != "ask":
            return True
        return self.ticket(state, who) in tickets(self.machine.kind, state.record)


def name(who: int) -> str:
    return f"s{who}"


def give_up(party: Party, ticket: Ticket, why: str = "timed out") -> Party:
    return party._replace(phase="leave", op=Leave(ticket, 0, why))


class Explorer:
    """One search. A violation comes with the shortest run that leads to it."""

    def __init__(self, model: Model, ceiling: int) -> None:
        self.model, self.ceiling = model, ceiling
        self._steps: dict[tuple[Any, type, Any], Step] = {}
        self._known: dict[State, int] = {}
        self._from: list[tuple[int, Move]] = []
        self._healthy = (array("l"), array("l"))  # moves without a fault, as two columns: from, to

    def run(self) -> Report:
        start = self.model.start()
        self._known[start] = 0
        self._from.append((-1, ("start",)))
        queue, moves, ends = deque([start]), 0, []
        while queue:
            state = queue.popleft()
            origin = self._known[state]
            if all(party.op is None for party in state.parties):
                ends.append(origin)
            try:
                self._check(state)
                for label, healthy, after in self._moves(state):
                    moves += 1
                    target = self._known.setdefault(after, len(self._known))
                    if target == len(self._from):
                        self._from.append((origin, label))
                        queue.append(after)
                        if target >= self.ceiling:
                            raise RuntimeError(f"more than {self.ceiling} states")
                    if healthy:
                        self._healthy[0].append(origin)
                        self._healthy[1].append(target)
            except Violation as broken:
                raise Violation(f"{broken}\n{self._story(origin)}\n  in {state}") from None
        self._no_dead_end(ends)
        return Report(len(self._known), moves, len(ends))

    def _check(self, state: State) -> None:
        self.model.check(state)
        for ticket in tickets(self.model.machine.kind, state.record):
            party = state.parties[int(ticket.session[1:])]
            if party.phase != "dead":
                need(party.op is not None and party.serial == ticket.serial, f"somebody still wants {ticket}")

    def _moves(self, state: State) -> Iterator[tuple[Move, bool, State]]:
        for who, party in enumerate(state.parties):
            if party.op is None or (who in self.model.behind and not self.model.begun(state, self.model.behind[who])):
                continue
            yield from self._deliveries(state, who, party)
            yield from self._troubles(state, who, party)
        if state.ghost is not None:
            step, memo = self._apply(state, state.ghost)
            yield ("ghost", state.ghost), False, State(step.after, state.parties, None, state.faults, memo)

    def _deliveries(self, state: State, who: int, party: Party) -> Iterator[tuple[Move, bool, State]]:
        record, parties, ghost, faults, _ = state
        step, memo = self._apply(state, party.op)
        wrote = step.after is not record
        if wrote or (self.model.leaves_always_write and isinstance(party.op, Leave | Evict)):
            ghost = None
        heard = self._hear(state, who, step.outcome)
        aware = self.model.told(memo, state, who, step.outcome)
        said = step.outcome.state
        yield ("submits", who, party.op, said), True, State(step.after, _put(parties, who, heard), ghost, faults, aware)
        if wrote and faults.lose and party.phase not in self.model.certain:
            deaf = _put(parties, who, _unsure(party))
            fewer = faults._replace(lose=faults.lose - 1)
            yield ("submits", who, party.op, "lost"), False, State(step.after, deaf, ghost, fewer, memo)

    def _troubles(self, state: State, who: int, party: Party) -> Iterator[tuple[Move, bool, State]]:
        record, parties, ghost, faults, memo = state
        if faults.delay and ghost is None and not isinstance(party.op, Leave | Evict):
            fewer = faults._replace(delay=faults.delay - 1)
            unsure = _put(parties, who, _unsure(party))
            yield ("delays", who, party.op), False, State(record, unsure, party.op, fewer, memo)
        if faults.expire and party.phase in ("ask", "then"):
            fewer = faults._replace(expire=faults.expire - 1)
            leaving = _put(parties, who, give_up(party, self.model.ticket(state, who)))
            yield ("expires", who), False, State(record, leaving, ghost, fewer, memo)
        if faults.crash and who in self.model.mortal and self.model.known(state, who):
            fewer = faults._replace(crash=faults.crash - 1)
            dead = _put(parties, who, party._replace(phase="dead", op=None))
            yield ("crashes", who), False, State(record, dead, ghost, fewer, self.model.crashed(state, who))

    def _apply(self, state: State, op: Any) -> tuple[Step, Any]:
        key = (state.record, type(op), op)  # tuples of two types can be equal
        step = self._steps.get(key)
        if step is None:
            model = self.model
            step = self._steps[key] = examine(model.module, model.machine, state.record, op, model.requests)
        return step, self.model.stepped(state.memo, step)

    def _hear(self, state: State, who: int, outcome: Outcome) -> Party:
        """The party after an answer, as `settle` goes on after it."""
        party, model = state.parties[who], self.model
        if party.phase == "leave":
            return model.gave_up(state, who, outcome)
        if party.phase in ("hold", "act"):
            return model.acted(state, who, outcome)
        request = model.requests[model.ticket(state, who)]
        if party.phase == "evict":
            return party._replace(phase="ask", op=model.again(who, request))
        if outcome.state not in (WAITING, "refused"):
            return model.settled(state, who, outcome)
        dead = [session for session in outcome.watch if state.parties[int(session[1:])].phase == "dead"]
        if dead and party.phase == "ask":
            return party._replace(phase="evict", op=Evict(dead[0]))
        if outcome.state == "refused":
            return give_up(party, model.ticket(state, who))
        if outcome.then is not None and party.phase == "ask":
            return party._replace(phase="then", op=outcome.then)
        return party._replace(phase="ask", op=model.again(who, request))

    def _no_dead_end(self, ends: list[int]) -> None:
        """Every state has a way to an end in which no fault happens."""
        size = len(self._known)
        origins: list[list[int]] = [[] for _ in range(size)]
        for origin, target in zip(*self._healthy, strict=True):
            origins[target].append(origin)
        good = bytearray(size)
        stack = list(ends)
        while stack:
            number = stack.pop()
            if not good[number]:
                good[number] = 1
                stack.extend(origins[number])
        stuck = good.find(0)
        if stuck >= 0:
            state = next(state for state, number in self._known.items() if number == stuck)
            raise Violation(f"a dead end\n{self._story(stuck)}\n  in {state}")

    def _story(self, number: int) -> str:
        lines = []
        while number >= 0:
            number, label = self._from[number]
            lines.append("  " + ", ".join(f"{part}" for part in label))
        return "\n".join(reversed(lines))


def _put(parties: tuple[Party, ...], who: int, party: Party) -> tuple[Party, ...]:
    return (*parties[:who], party, *parties[who + 1 :])


def _unsure(party: Party) -> Party:
    """A holder whose op may have been applied no longer holds for sure."""
    return party._replace(phase="act") if party.phase == "hold" else party


def explore(model: Model, ceiling: int = 1_500_000) -> Report:
    """Search all of the model's states; raises `Violation` with the run that leads to it."""
    gc.disable()  # millions of tuples and no cycle among them: looking for one doubles the time
    try:
        return Explorer(model, ceiling).run()
    finally:
        gc.enable()
