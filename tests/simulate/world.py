"""A world in one thread: a virtual clock, a store that forgets and delays, and participants that crash.

The participants run the real scripts of the real objects against the real machines. Only what lies between is a model:
`World` performs the effects that scripts yield, and at each of them the seed decides what goes wrong:

- a participant crashes, with all others of its session, and its death can be proved a little later;
- an answer is lost, whether the op was applied or not (`OutcomeUnknown`), or nothing was sent (`Unavailable`);
- an op arrives late, after its sender gave up. As in every store it is then applied only if the record's version has
  not moved since, and `Leave` and `Evict` always move it;
- a wake-up is lost; a message takes long; an interrupt hits whatever the participant is doing.

Faults are bounded in number and end after a while, so that at the end everybody living must have finished. One seed is
one history.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from interlock._script import Abandon, Now, Park, Probe, Report, Script, Submit
from interlock.abc import WAITING, Evict, Leave, Liveness, Machine, Outcome, Ticket, label_of
from interlock.errors import OutcomeUnknown, Unavailable
from interlock.holder import Holder

REPOLL_S = 0.5
END_S = 300.0  # virtual seconds after which whoever has not finished never will
STORMS = (0.0, 0.02, 0.06, 0.15)  # how likely a fault is at each effect, one of these per history
FAULTS = 12
CALM_S = 3.0  # from then on nothing more goes wrong, so that whoever waits in vain waits till the end


class Violation(AssertionError):
    """Something happened that must not."""


class Crashed(BaseException):
    """Unwinds what is left of a participant that is gone; whatever it still asks for is not done."""


class Participant:
    """What the objects need of a session, and no more."""

    url = "simulated://"
    attachments = "/nonexistent"
    lasting = False
    holder = Holder(host="simulated", pid=0)

    def __init__(self, world: World, number: int, size: int = 1) -> None:
        self.id = f"{number:016x}"
        self.rank = number if size > 1 else 0
        self.size = size
        self.store = self
        self.holds_by_name: dict[str, list[Any]] = {}
        self._world = world
        self._serials = itertools.count(1)

    def owner(self) -> int:
        """The actor that runs now, as a thread's identity."""
        return self._world.current

    def ticket(self) -> Ticket:
        """A new ticket."""
        return Ticket(self.id, next(self._serials))

    def joins(self, name: str, machine: Machine) -> None:
        """A participant ends by dying, so there is no farewell to remember."""

    def check(self) -> None:
        """And nobody closes it while it waits."""

    def holds(self, name: str) -> list[Any]:
        """The grants under a name."""
        return self.holds_by_name.get(name, [])

    def keep(self, name: str, grant: Any) -> None:
        """Remember a grant."""
        self.holds_by_name.setdefault(name, []).append(grant)

    def drop(self, name: str, grant: Any) -> None:
        """Forget a grant."""
        self.holds_by_name[name].remove(grant)

    def read(self, name: str) -> None:
        """Reports read the record; they are for people, of whom there are none here."""

    def alive(self, session: str) -> Liveness:
        """What errors ask in order to name somebody."""
        return self._world.alive(session)


class Actor:
    """One thread of a participant, running a programme."""

    __slots__ = ("ended", "interrupted", "mortal", "nap", "number", "participant", "script")

    def __init__(self, number: int, participant: Participant, script: Script, mortal: bool) -> None:
        self.number = number
        self.participant = participant
        self.script = script
        self.mortal = mortal
        self.ended = False
        self.interrupted = False
        self.nap = 0


class World:
    """One history of one object."""

    repolls = True  # the next two are switched off by negative controls
    departures_write = True

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.current = -1
        self.actors: list[Actor] = []
        self.crashed: Callable[[Actor], None] = lambda actor: None
        self.stepped: Callable[[Any, Any, Any], None] = lambda before, op, after: None
        self._storm = self.random.choice(STORMS)
        self._faults = FAULTS
        self._trace = trace
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._dead: dict[str, float] = {}
        self._parked: dict[Ticket, Actor] = {}
        self._woken: set[Ticket] = set()
        self._version = 0

    def begin(self, machine: Any) -> None:
        """Give the object its machine."""
        self.machine = machine
        self.record = machine.initial(0)

    def enter(self, participant: Participant, script: Script, *, mortal: bool = True) -> None:
        """Add an actor that begins soon."""
        actor = Actor(len(self.actors), participant, script, mortal)
        self.actors.append(actor)
        self._later(self.random.random() * 0.1, self._resume, actor)

    def run(self) -> None:
        """Let everything happen, until nothing more can or time is over."""
        queue = self._queue
        try:
            while queue and self.now < END_S:
                self.now, _, happen, args = heapq.heappop(queue)
                happen(*args)
        except BaseException:
            for actor in self.actors:
                _unwind(actor.script)
            raise
        for actor in self.actors:
            if not actor.ended:
                raise Violation(f"actor {actor.number} never finished")

    def alive(self, session: str) -> Liveness:
        """Dead is said only once it can be proved."""
        label = label_of(session)
        if label is not None:  # participants of collectives are numbered by rank
            session = f"{int(label):016x}"
        return Liveness("dead" if self._dead.get(session, END_S + 1) <= self.now else "alive", "simulated")

    def provably_dead(self, actor: Actor, when: float) -> bool:
        """Whether the actor's death could be proved at that time."""
        return self._dead.get(actor.participant.id, END_S + 1) <= when

    def departed(self, session: str) -> bool:
        """Whether the session has crashed."""
        return session in self._dead

    # -- the machinery

    def _later(self, delay: float, happen: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), happen, args))

    def _latency(self) -> float:
        """Mostly short; now and then long enough for anything to come in between."""
        share = self.random.random()
        return share * 0.01 if share < 0.9 else share * share * 1.5

    def _note(self, actor: Actor | None, what: object) -> None:
        if self._trace:
            who = f"actor {actor.number}" if actor else "the store"
            self._trace(f"{self.now:9.4f}  {who:9}  {what}")

    def _resume(self, actor: Actor, answer: Any = None, error: BaseException | None = None) -> None:
        if actor.ended:
            return
        self.current = actor.number
        while True:
            try:
                effect = actor.script.send(answer) if error is None else actor.script.throw(error)
            except StopIteration:
                actor.ended = True
                self._note(actor, "ended")
                return
            error = None
            if type(effect) is Now:
                answer = (self.now, int(self.now * 1000))
            elif type(effect) is Abandon:
                answer = self._later(self._latency(), self._leave_at_last, actor, effect.op)
            elif type(effect) is Report:
                answer = None
            else:
                self._perform(actor, effect)
                return

    def _perform(self, actor: Actor, effect: Any) -> None:
        fault = self._fault(actor, effect)
        if self._trace:
            self._note(actor, f"{effect}{f' !{fault}' if fault else ''}")
        if type(effect) is Submit:
            self._send(actor, effect.op, fault)
        elif fault == "crash":
            self._crash(actor)
        elif fault == "interrupt":
            self._later(self._latency(), self._resume, actor, None, KeyboardInterrupt())
        elif type(effect) is Park:
            self._park(actor, effect)
        elif type(effect) is Probe:
            self._resume(actor, self.alive(effect.session))
        else:
            self._later(effect.seconds, self._resume, actor)

    def _fault(self, actor: Actor, effect: Any) -> str | None:
        if self.now > CALM_S or not self._faults or self.random.random() >= self._storm:
            return None
        kinds = ["crash", "interrupt"]
        if type(effect) is Submit:
            kinds += ["lost", "lost", "dropped", "late", "late", "unavailable"]
        fault = self.random.choice(kinds)
        if fault in ("crash", "interrupt") and (actor.interrupted or not actor.mortal):
            return None
        self._faults -= 1
        actor.interrupted = actor.interrupted or fault == "interrupt"
        return fault

    def _send(self, actor: Actor, op: Any, fault: str | None) -> None:
        if fault is None:
            self._later(self._latency(), self._arrive, actor, op)
            return
        if fault in ("crash", "interrupt"):
            arrives = self.random.choice(("lost", "dropped", "late"))
        else:
            arrives = fault
        if arrives == "lost":
            self._apply(op)
        elif arrives == "late":
            self._later(self.random.random() * 4, self._arrive_late, op, self._version)
        if fault == "crash":
            self._crash(actor)
            return
        errors = {"interrupt": KeyboardInterrupt, "unavailable": Unavailable}
        error = errors.get(fault, OutcomeUnknown)
        self._later(self._latency(), self._resume, actor, None, error("simulated"))

    def _arrive(self, actor: Actor, op: Any) -> None:
        if not actor.ended:
            self._later(self._latency(), self._resume, actor, self._apply(op))

    def _arrive_late(self, op: Any, version: int) -> None:
        if version == self._version:
            self._note(None, f"late: {op}")
            self._apply(op)

    def _leave_at_last(self, actor: Actor, op: Leave) -> None:
        """The background thread of `Abandon`; it dies with its process, not with its thread."""
        if not self.departed(actor.participant.id):
            self._apply(op)

    def _apply(self, op: Any) -> Outcome:
        before = self.record
        after, outcome = self.machine.apply(before, op)
        if after is not before or (self.departures_write and isinstance(op, Leave | Evict)):
            self._version += 1
        self.record = after
        if self._trace:
            self._note(None, f"{type(op).__name__}: {outcome.state}, {after}")
        self.stepped(before, op, after)
        if outcome.state == WAITING:
            self._woken.discard(op.ticket)
        for ticket in outcome.unpark:
            if self.random.random() >= self._storm:
                self._later(self._latency(), self._unpark, ticket)
        return outcome

    def _park(self, actor: Actor, effect: Park) -> None:
        if effect.ticket in self._woken:
            self._woken.discard(effect.ticket)
            self._later(0.0, self._resume, actor)
            return
        actor.nap += 1
        self._parked[effect.ticket] = actor
        rest = END_S if effect.until is None else max(0.0, effect.until - self.now)
        if self.repolls:
            rest = min(rest, REPOLL_S)
        self._later(rest, self._wake, actor, actor.nap, effect.ticket)

    def _unpark(self, ticket: Ticket) -> None:
        actor = self._parked.get(ticket)
        if actor is None:
            self._woken.add(ticket)
        else:
            self._wake(actor, actor.nap, ticket)

    def _wake(self, actor: Actor, nap: int, ticket: Ticket) -> None:
        if actor.nap == nap and self._parked.pop(ticket, None) is not None:
            self._resume(actor)

    def _crash(self, actor: Actor) -> None:
        """The whole process dies: every actor of the session, wherever it is."""
        session = actor.participant.id
        self._dead[session] = self.now + self.random.random() * 0.5
        for each in self.actors:
            if each.participant is actor.participant and not each.ended:
                each.ended = True
                self._note(each, "crashed")
                self.crashed(each)
                self._parked = {ticket: who for ticket, who in self._parked.items() if who is not each}
                _unwind(each.script)


def _unwind(script: Script) -> None:
    """End a generator without letting it do anything more."""
    try:
        while True:
            script.throw(Crashed())
    except BaseException:
        return
