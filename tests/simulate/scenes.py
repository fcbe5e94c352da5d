"""What the participants do with each kind of object, and what they must never see.

A scene gives its world the programmes of two to four actors, and watches: `step` sees every change of the record, the
programmes themselves report what users would see. Whatever must not be is a `Violation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from interlock import values
from interlock._script import Pause, Script, submit
from interlock.errors import AcquireTimeout, BrokenBarrier, OutcomeUnknown, OwnerDied, RemoteError, Unavailable
from interlock.machines.barrier import Reset
from interlock.machines.event import Clear, Set
from interlock.objects import Barrier, Event, Fence, Lock, Once, RWLock, Semaphore
from interlock.objects.fence import WayOut
from interlock.results import result_of
from machines.laws import tickets
from simulate.world import Actor, Participant, Violation, World

TROUBLE = (Unavailable, OutcomeUnknown)  # what a user may always get while the store is in trouble


def need(condition: object, law: str) -> None:
    """Fail with the law's words unless it holds."""
    if not condition:
        raise Violation(law)


def tolerant(script: Script) -> Script:
    """Run a script; if the store is in trouble, go on without it."""
    try:
        yield from script
    except TROUBLE:
        return


class Scene:
    """Some actors with one object."""

    machine: Any

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.size = self.random.randint(2, 4)
        world.begin(self.machine)
        world.stepped = self.step
        world.crashed = self.crashed

    def play(self) -> None:
        """Run the world to its end, and look at what is left."""
        for participant, script in self.cast():
            self.world.enter(participant, self._until_interrupted(script))
        self.world.run()
        self.end()
        for ticket in tickets(self.machine.kind, self.world.record):
            need(self.world.departed(ticket.session), f"{ticket} of a living session is left behind")

    def cast(self) -> Iterator[tuple[Participant, Script]]:
        """The actors; now and then two are threads of one session."""
        participant = None
        for number in range(self.size):
            if participant is None or self.random.random() < 0.75:
                participant = Participant(self.world, number)
            yield participant, self.programme(participant, number)

    def _until_interrupted(self, script: Script) -> Script:
        try:
            yield from script
        except KeyboardInterrupt:
            return

    def programme(self, participant: Participant, number: int) -> Script:
        """What one actor does."""
        raise NotImplementedError

    def step(self, before: Any, op: Any, after: Any) -> None:
        """Look at a change of the record."""

    def crashed(self, actor: Actor) -> None:
        """Forget a crashed actor."""

    def end(self) -> None:
        """Look at the whole history."""

    def pause(self) -> Pause:
        """Some time for work."""
        return Pause(self.random.random() * 0.3)


class Locks(Scene):
    """Actors that take and give back, alone, shared, or with permits."""

    machine = Lock.machine
    permits = 0
    weakens = False

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inside: dict[int, bool] = {}
        self.tokens: set[int] = set()
        self.last_alone = 0
        self.damaged = False
        self.arrivals: dict[Any, int] = {}
        self.last_served = -1

    def side(self, participant: Participant) -> Lock:
        """The lock as one actor uses it this time."""
        return Lock(participant, "a")

    def programme(self, participant: Participant, number: int) -> Script:
        for _ in range(self.random.randint(1, 4)):
            lock = self.side(participant)
            try:
                grant = yield from lock._take(self.random.choice((None, None, 0.0, 0.3, 2.0)))
            except (AcquireTimeout, *TROUBLE):
                continue
            try:
                self._enter(number, lock._shared, grant)
                yield self.pause()
                if self.weakens and not lock._shared and self.random.random() < 0.3:
                    self.inside[number] = True
                    yield from tolerant(lock._weaken(grant))
                    yield self.pause()
            finally:
                self.inside.pop(number, None)
                yield from self._give_back(lock, grant)

    def _give_back(self, lock: Lock, grant: Any) -> Script:
        while True:
            try:
                return (yield from lock._give_back(grant))
            except Unavailable:
                continue  # nothing was sent, and the hold stays
            except OutcomeUnknown:
                return None

    def _enter(self, number: int, shared: bool, grant: Any) -> None:
        if self.permits:
            need(len(self.inside) < self.permits, "more inside than permits")
        elif shared:
            need(all(self.inside.values()), "a reader beside a writer")
        else:
            need(not self.inside, "a writer is not alone")
        need(grant.token not in self.tokens, "a token was given out twice")
        need(grant.token > self.last_alone, "a token is smaller than that of an earlier holder")
        need(grant.recovered or not self.damaged, "a death in the middle of a write was not told")
        if not shared and not self.permits:
            need(grant.token > max(self.tokens, default=0), "a writer's token is not the largest")
            self.last_alone = grant.token
        self.tokens.add(grant.token)
        self.inside[number] = shared
        self.damaged = False

    def step(self, before: Any, op: Any, after: Any) -> None:
        if after is before:
            return
        held = {entry.ticket for entry in before.entries if entry.token}
        for entry in after.entries:
            arrival = self.arrivals.setdefault(entry.ticket, len(self.arrivals))
            if entry.token and entry.ticket not in held:
                need(arrival > self.last_served, "somebody was overtaken")
                self.last_served = arrival

    def crashed(self, actor: Actor) -> None:
        alone = self.inside.pop(actor.number, True) is False
        self.damaged = self.damaged or (alone and not self.permits)


class RWLocks(Locks):
    """Readers and writers, and writers that become readers."""

    weakens = True

    def side(self, participant: Participant) -> Lock:
        rw = RWLock(participant, "a")
        return rw.read() if self.random.random() < 0.6 else rw.write()


class Semaphores(Locks):
    """Two permits."""

    machine = Semaphore.machine
    permits = 2

    def side(self, participant: Participant) -> Lock:
        return Semaphore(participant, "a", self.permits)


class Barriers(Scene):
    """Parties that meet again and again, and one that may abort or reset."""

    machine = Barrier.machine

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.waiting: dict[int, float] = {}
        self.passed: dict[int, set[int]] = {}

    def programme(self, participant: Participant, number: int) -> Script:
        barrier = Barrier(participant, "a", self.size)
        for _ in range(self.random.randint(1, 4)):
            yield self.pause()
            self.waiting[number] = self.world.now
            try:
                arrival = yield from barrier._wait(self.random.choice((3.0, 6.0, 20.0)))
                self._pass(number, arrival)
                continue
            except BrokenBarrier:
                del self.waiting[number]
            except (AcquireTimeout, *TROUBLE):
                pass  # whether it was let go is not known
            if self.random.random() < 0.5:
                return
            yield from tolerant(submit(Reset()))

    def _pass(self, number: int, arrival: Any) -> None:
        del self.waiting[number]
        seen = self.passed.setdefault(arrival.generation, set())
        need(arrival.index not in seen, "two parties have one index")
        need(0 <= arrival.index < self.size, "an index is out of range")
        seen.add(arrival.index)

    def step(self, before: Any, op: Any, after: Any) -> None:
        if after.generation == before.generation or isinstance(op, Reset):
            return
        actors, last = self.world.actors, max(self.waiting.values())
        living = [number for number in self.waiting if not self.world.provably_dead(actors[number], last)]
        need(len(living) >= self.size, "the barrier let go before all had arrived")


class Events(Scene):
    """Waiters without a time-out, setters that also clear, and one at the end that sets for good."""

    machine = Event.machine

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.was_set = -1.0

    def play(self) -> None:
        self.world.enter(Participant(self.world, 9), self._last(), mortal=False)
        super().play()

    def _last(self) -> Script:
        while not all(actor.ended for actor in self.world.actors[1:]):
            yield Pause(20.0)
            yield from tolerant(submit(Set()))

    def programme(self, participant: Participant, number: int) -> Script:
        event = Event(participant, "a")
        for _ in range(self.random.randint(1, 4)):
            yield self.pause()
            began, choice = self.world.now, self.random.random()
            try:
                if choice < 0.2:
                    yield from submit(Set())
                elif choice < 0.35:
                    yield from submit(Clear())
                elif (yield from event._wait(self.random.choice((None, None, 0.0, 1.0)))):
                    need(self.world.record.flag or self.was_set >= began, "let go though it was not set")
            except TROUBLE:
                continue

    def step(self, before: Any, op: Any, after: Any) -> None:
        if before.flag or after.flag:
            self.was_set = self.world.now


class Onces(Scene):
    """Actors that want one computation; it may fail, take long, or die with its worker."""

    machine = Once.machine

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.working: set[int] = set()
        self.results: set[Any] = set()
        self.published: set[Any] = set()

    def programme(self, participant: Participant, number: int) -> Script:
        once = Once(participant, "a", timeout=self.random.choice((None, None, 0.0, 0.5)))
        for _ in range(self.random.randint(1, 2)):
            yield self.pause()
            try:
                self.results.add((yield from self._run(once, number)))
            except LookupError as error:
                self.results.add(error.args)
            except (AcquireTimeout, *TROUBLE):
                continue

    def _run(self, once: Once, number: int) -> Script:
        ticket, outcome = yield from once._claim()
        if outcome.state == "yours":
            need(not self.working, "two compute at once")
            self.working.add(number)
            try:
                yield self.pause()
                if self.random.random() < 0.2:
                    raise LookupError(number)
            except BaseException as error:
                self.working.discard(number)
                yield from once._give_up(ticket, error)
                raise
            self.working.discard(number)
            outcome = yield from once._publish(ticket, outcome.value[0], values.encode(number))
        return result_of(outcome, once._session.store)

    def step(self, before: Any, op: Any, after: Any) -> None:
        if after is not before and (after.value, after.error) != (None, None):
            self.published.add((after.value, after.error))

    def crashed(self, actor: Actor) -> None:
        self.working.discard(actor.number)

    def end(self) -> None:
        need(len(self.published) <= 1, "the result changed")
        need(len(self.results) <= 1, "not everybody got the same result")


class Fences(Scene):
    """Ranks that take turns, of which one writes."""

    machine = Fence.machine

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.writing: set[int] = set()
        self.results: dict[int, dict[int, Any]] = {}
        self.lasting = self.random.random() < 0.5
        self.writer = self.random.choice((None, None, 0))
        self.turns = self.random.randint(1, 3)

    def cast(self) -> Iterator[tuple[Participant, Script]]:
        for number in range(self.size):
            participant = Participant(self.world, number, self.size)
            participant.lasting = self.lasting
            yield participant, self.programme(participant, number)

    def programme(self, participant: Participant, number: int) -> Script:
        fence = Fence(participant, "a", writer=self.writer, timeout=8.0)
        for turn in range(self.turns):
            yield self.pause()
            try:
                yield from self._turn(fence, turn, number)
                result = fence.collect()
            except (OwnerDied, RemoteError, LookupError) as error:
                result = type(error).__name__
            except (AcquireTimeout, *TROUBLE):
                return
            self.results.setdefault(turn, {})[number] = result

    def _turn(self, fence: Fence, turn: int, number: int) -> Script:
        yield from fence._begin()
        try:
            if not (yield from fence._writes()):
                raise WayOut
            need(not self.writing, "two write at once")
            self.writing.add(number)
            yield self.pause()
            if self.random.random() < 0.15:
                raise LookupError(turn)
            fence.share((turn, number))
        except BaseException as error:
            self.writing.discard(number)
            if not (yield from fence._end(error)):
                raise
        else:
            self.writing.discard(number)
            yield from fence._end(None)

    def crashed(self, actor: Actor) -> None:
        """What the dead alone were told may be forgotten, unless the scope is one run's own."""
        self.writing.discard(actor.number)
        for told in self.results.values():
            if not self.lasting:
                told.pop(actor.number, None)

    def end(self) -> None:
        for turn, told in self.results.items():
            need(len({*told.values()}) <= 1, f"turn {turn} ended differently for different ranks: {told}")


SCENES: dict[str, type[Scene]] = {
    "lock": Locks,
    "rwlock": RWLocks,
    "semaphore": Semaphores,
    "barrier": Barriers,
    "event": Events,
    "once": Onces,
    "fence": Fences,
}
