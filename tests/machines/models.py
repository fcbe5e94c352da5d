"""The programs that the explorer runs on each machine, and what their parties may believe.

Each model names its machine's module, so that a changed module can be put in its place.
"""

from __future__ import annotations

from itertools import zip_longest
from types import ModuleType
from typing import Any

from interlock.abc import Evict, Leave, Outcome, Ticket
from interlock.machines import admission, barrier, event, fence, once
from machines.explorer import ONE_OF_EACH, Faults, Model, Party, State, give_up, name
from machines.laws import Step, Violation, need


def in_order(size: int) -> dict[int, int]:
    """Equal parties may as well begin in the order of their numbers."""
    return {who: who - 1 for who in range(1, size)}


class Admission(Model):
    """Parties that acquire and release. A program's words: write, read, permit, downgrade (write, then read), try.

    Believed: a writer is alone, permits suffice. Remembered: whether a holder died whose work may be half-done; then
    the record must say so until the next one who can repair it has heard.
    """

    memo = False

    def __init__(
        self,
        programs: tuple[tuple[str, ...], ...],
        permits: int = 0,
        faults: Faults = ONE_OF_EACH,
        module: ModuleType = admission,
    ):
        super().__init__(module, module.SEMAPHORE if permits else module.LOCK, len(programs))
        self.programs, self.permits, self.faults = programs, permits, faults
        if len(set(programs)) == 1:
            self.behind = in_order(self.size)

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        if step == len(self.programs[who]):
            return None
        word = self.programs[who][step]
        return self.module.Acquire(ticket, word in ("read", "permit"), self.permits, word != "try")

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        party, ticket = state.parties[who], self.ticket(state, who)
        need(outcome.state == "granted", f"an acquire is granted in the end, not {outcome.state}")
        downgrade = self.programs[who][party.step] == "downgrade"
        return party._replace(phase="hold", op=self.module.Downgrade(ticket) if downgrade else Leave(ticket))

    def acted(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        if isinstance(party.op, Leave):
            return self.onward(who, party)
        need(outcome.state == "granted", "a downgraded hold is still held")
        return party._replace(phase="hold", op=Leave(self.ticket(state, who)))

    def crashed(self, state: State, who: int) -> Any:
        return state.memo or (state.parties[who].phase == "hold" and self._guards(state, who))

    def told(self, memo: Any, state: State, who: int, outcome: Outcome) -> Any:
        if outcome.state != "granted" or state.parties[who].phase != "ask":
            return memo
        return memo and not (outcome.value.recovered and self._guards(state, who))

    def _guards(self, state: State, who: int) -> bool:
        """Whether what the party holds or asks for lets it change what is guarded."""
        party = state.parties[who]
        word = self.programs[who][party.step]
        return word in ("write", "permit", "try") or (word == "downgrade" and not isinstance(party.op, Leave))

    def check(self, state: State) -> None:
        holders = [who for who, party in enumerate(state.parties) if party.phase == "hold"]
        if self.permits:
            need(len(holders) <= self.permits, "no more believe to hold than there are permits")
        elif len(holders) > 1:
            need(not any(self._guards(state, who) for who in holders), "a writer believes rightly that it is alone")
        if state.memo:
            record, dead = state.record, {name(w) for w, party in enumerate(state.parties) if party.phase == "dead"}
            standing = any(entry.recovered or entry.ticket.session in dead for entry in record.entries)
            need(record.recovered or standing, "the record remembers a death until it is told")


class Barrier(Model):
    """Parties that meet, twice. Each learns for each meeting that it passed or that it broke. `parties` is how many
    meet at a time, if not all; `ranked`, whether they can be missed by rank.

    Believed: nobody passes a meeting that another found broken, and places differ. Remembered: a party that died in a
    generation that was still filling, which must never pass. The verdict of a ticket is told once and then forgotten,
    so the answer to a party that gives up is not among those that are lost here.
    """

    certain = ("leave",)

    def __init__(
        self,
        size: int,
        rounds: int = 2,
        faults: Faults = ONE_OF_EACH,
        module: ModuleType = barrier,
        parties: int = 0,
        ranked: bool = True,
    ):
        super().__init__(module, module.BARRIER, size)
        self.rounds, self.faults, self.parties = rounds, faults, parties or size
        self.ranked = ranked and self.parties == size
        self.behind = in_order(size)

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        label = str(who) if self.ranked else f"party {who}"
        return None if step == self.rounds else self.module.Arrive(ticket, self.parties, label)

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        need(outcome.state in ("passed", "broken"), f"an arrival ends with a verdict, not {outcome.state}")
        party = state.parties[who]
        return party._replace(phase="act", op=Leave(self.ticket(state, who)), seen=(*party.seen, _verdict(outcome)))

    def acted(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        return self.onward(who, party) if party.seen[-1] else party._replace(phase="end", op=None)

    def gave_up(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        if outcome.state == "gone":
            return self.asking(who, party, party.step)
        if outcome.state == "passed":
            return self.onward(who, party, _verdict(outcome))
        return party._replace(phase="end", op=None, seen=(*party.seen, ()))

    def crashed(self, state: State, who: int) -> Any:
        filling = len(state.record.arrivals) < self.parties
        waits = self.ticket(state, who) in [party.ticket for party in state.record.arrivals]
        return self.ticket(state, who) if filling and waits else state.memo

    def stepped(self, memo: Any, step: Step) -> Any:
        passed = [notice.ticket for notice in step.after.notices if notice.broken is None]
        need(memo not in passed, "whoever died waiting never counts as arrived")
        return memo

    def known(self, state: State, who: int) -> bool:
        return self.ranked or state.parties[who].step > 0 or name(who) in self.machine.sessions(state.record)

    def check(self, state: State) -> None:
        passed = [verdict for party in state.parties for verdict in party.seen if verdict]
        need(len(set(passed)) == len(passed), "each has its own place in its generation")
        need(all(place < self.parties for place, _ in passed), "no more pass than meet")
        if self.parties == self.size:
            for told in zip_longest(*(party.seen for party in state.parties)):
                verdicts = [verdict for verdict in told if verdict is not None]
                need(len({verdict[1:] for verdict in verdicts}) == 1, "all pass with one generation or none does")


def _verdict(outcome: Outcome) -> tuple[int, ...]:
    return tuple(outcome.value) if outcome.state == "passed" else ()


class Event(Model):
    """Waiters, and an immortal party that sets and clears. A program's words: wait, try, set, clear."""

    def __init__(self, programs: tuple[tuple[str, ...], ...], module: ModuleType = event):
        super().__init__(module, module.EVENT, len(programs))
        self.programs = programs
        self.mortal = tuple(who for who, words in enumerate(programs) if "set" not in words)

    def asking(self, who: int, party: Party, step: int, *seen: Any) -> Party:
        asking = super().asking(who, party, step, *seen)
        return asking._replace(phase="act") if isinstance(asking.op, self.module.Set | self.module.Clear) else asking

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        if step == len(self.programs[who]):
            return None
        word = self.programs[who][step]
        if word in ("wait", "try"):
            return self.module.Wait(ticket, word == "wait")
        return self.module.Set() if word == "set" else self.module.Clear()

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        need(outcome.state == "set", f"a wait ends with the flag set, not {outcome.state}")
        return state.parties[who]._replace(phase="act", op=Leave(self.ticket(state, who)))


class Once(Model):
    """Parties that need one result. A program's words: value, error (what it makes if it must work), retry, quit; owe
    and owe error, for a result that is not kept.

    Believed: one works at a time, and what one attempt came to is the same for all; where results are kept and nobody
    retries, there is one attempt's result for all. Remembered: a worker that died, which its successor must be told.
    """

    memo = False

    def __init__(self, programs: tuple[tuple[str, ...], ...], faults: Faults = ONE_OF_EACH, module: ModuleType = once):
        super().__init__(module, module.ONCE, len(programs))
        self.programs, self.faults = programs, faults
        if len(set(programs)) == 1:
            self.behind = in_order(self.size)

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        if step == len(self.programs[who]):
            return None
        return self.module.Claim(ticket, self.programs[who][step] == "retry")

    def again(self, who: int, request: Any) -> Any:
        return request._replace(retry=False)

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        party, ticket = state.parties[who], self.ticket(state, who)
        if outcome.state != "yours":
            return self._collect(state, who, outcome)
        attempt, recovered = outcome.value
        need(recovered or not state.memo, "the next worker is told of the death")
        word = self.programs[who][party.step]
        if word == "quit":
            return give_up(party, ticket, "was interrupted")
        keep = "owe" not in word
        failed = self.module.Fail(ticket, f"e{attempt}", keep)
        op = failed if "error" in word else self.module.Publish(ticket, f"v{attempt}", keep)
        return party._replace(phase="hold", op=op)

    def acted(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        return self.onward(who, party) if isinstance(party.op, Leave) else self._collect(state, who, outcome)

    def _collect(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        if outcome.state == "gone" and party.phase == "act" and any("retry" in words for words in self.programs):
            return self.onward(who, party)  # published, answer lost, and forgotten by a retry since
        need(outcome.state in ("done", "failed"), f"a claim ends with a result, not {outcome.state}")
        if outcome.then is not None:
            return party._replace(phase="act", op=outcome.then, seen=(*party.seen, outcome.value))
        return self.onward(who, party, outcome.value)

    def crashed(self, state: State, who: int) -> Any:
        return state.parties[who].phase == "hold"

    def stepped(self, memo: Any, step: Step) -> Any:
        settles = isinstance(step.op, self.module.Publish | self.module.Fail) and step.after is not step.before
        return memo and not settles

    def check(self, state: State) -> None:
        need(sum(party.phase == "hold" for party in state.parties) <= 1, "one works at a time")
        results = {text for party in state.parties for text in party.seen}
        need(len({text[1:] for text in results}) == len(results), "an attempt has one result")
        if not any({"retry", "owe", "owe error"} & {*words} for words in self.programs):
            need(len(results) <= 1, "everybody gets the same result")


class Fence(Model):
    """Parties that take turns writing for all. `writer` is the one that must write, or None for the first to come.

    Whoever runs out of time joins the same turn again. Believed: one writes at a time, and the result of a turn is the
    same for all; for all who live, where the scope is not one run's own. Where it is (`lasting`), those who have had
    all their turns close their sessions, which must take nothing from the others. What a turn came to is told once to a
    party that gives up, so that answer is not among those lost.
    """

    certain = ("leave",)
    memo = False

    def __init__(
        self,
        size: int,
        turns: int = 2,
        writer: int | None = None,
        faults: Faults = ONE_OF_EACH,
        module: ModuleType = fence,
        lasting: bool = False,
    ):
        super().__init__(module, module.FENCE, size)
        self.turns, self.writer, self.faults, self.lasting = turns, writer, faults, lasting
        self.behind = in_order(size) if writer is None else {2: 1}

    def request(self, who: int, step: int, ticket: Ticket) -> Any:
        writer = "" if self.writer is None else str(self.writer)
        return None if step == self.turns else self.module.Join(ticket, str(who), self.size, writer, self.lasting)

    def settled(self, state: State, who: int, outcome: Outcome) -> Party:
        party, ticket = state.parties[who], self.ticket(state, who)
        if outcome.state != "yours":
            return self._collect(state, who, outcome)
        need(self.writer in (None, who), "only the writer asked for writes")
        need(outcome.value[1] or not state.memo, "the next writer is told of the death")
        return party._replace(phase="hold", op=self.module.Publish(ticket, f"v{outcome.value[0]}{who}"))

    def acted(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        if isinstance(party.op, Leave) and self.lasting and party.step == self.turns - 1:
            return party._replace(op=Evict(name(who)))
        if isinstance(party.op, Leave | Evict):
            return self.onward(who, party)
        return self._collect(state, who, outcome)

    def _collect(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        return party._replace(phase="act", op=Leave(self.ticket(state, who)), seen=(*party.seen, _result(outcome)))

    def gave_up(self, state: State, who: int, outcome: Outcome) -> Party:
        party = state.parties[who]
        if outcome.state in ("left", "gone"):
            return self.asking(who, party, party.step)
        return self.onward(who, party, _result(outcome))

    def crashed(self, state: State, who: int) -> Any:
        return state.parties[who].phase == "hold"

    def stepped(self, memo: Any, step: Step) -> Any:
        return memo and step.after.value is None

    def check(self, state: State) -> None:
        need(sum(party.phase == "hold" for party in state.parties) <= 1, "one writes at a time")
        for turn in range(self.turns):
            heard = [party for party in state.parties if self.lasting or party.phase != "dead"]
            results = {party.seen[turn] for party in heard if len(party.seen) > turn}
            need(len(results) <= 1, "a turn has one result")


def _result(outcome: Outcome) -> str:
    if outcome.state == "died":
        return "died"
    if outcome.state not in ("done", "failed"):
        raise Violation(f"a turn ends with a result, not {outcome.state}")
    return str(outcome.value)
