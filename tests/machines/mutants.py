"""Broken machines: each a machine with one line changed. A check that passes one of them checks nothing.

A mutant is a pair of texts: what the source says, once, and what it says instead. `mutate` makes the changed module
beside the real one; `scrutinise` is the same scrutiny for all: small explorations, then random walks.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

from interlock.machines import admission, barrier, event, fence, once
from machines.explorer import Faults, Model, explore
from machines.models import Admission, Barrier, Event, Fence, Once
from machines.walks import wander

SOME = Faults(crash=1, lose=1, delay=0, expire=1)
FEWER = Faults(crash=1, lose=0, delay=0, expire=1)


class Mutant(NamedTuple):
    """One change to the source of a machine's module."""

    module: ModuleType
    old: str
    new: str


def mutate(mutant: Mutant) -> ModuleType:
    """The module with the change; the source must still say what the mutant changes, and only once."""
    source = inspect.getsource(mutant.module)
    assert source.count(mutant.old) == 1, (
        f"{mutant.module.__name__} says {source.count(mutant.old)} times: {mutant.old}"
    )
    changed = ModuleType(f"{mutant.module.__name__}_mutant")
    exec(
        compile(source.replace(mutant.old, mutant.new), f"<mutant of {mutant.module.__name__}>", "exec"), vars(changed)
    )
    return changed


def scrutinise(module: ModuleType) -> None:
    """Explore the module's machines and walk over them at random; raises `Violation`."""
    machines = [value for key, value in vars(module).items() if key.isupper() and hasattr(value, "apply")]
    for model in _models(module):
        explore(model, ceiling=300_000)
    for machine in machines:
        wander(module, machine, 400)
        with patch.object(module, "LIMIT", 2):
            wander(module, machine, 400)


def _models(module: ModuleType) -> list[Model]:
    if hasattr(module, "SEMAPHORE"):
        return [
            Admission((("write", "write"), ("downgrade",), ("read", "read")), faults=SOME, module=module),
            Admission((("permit",), ("permit", "permit"), ("permit",)), permits=2, faults=FEWER, module=module),
            Admission((("write",), ("try",), ("read", "try")), faults=FEWER, module=module),
        ]
    if hasattr(module, "BARRIER"):
        return [
            Barrier(3, 2, FEWER, module),
            Barrier(2, 2, SOME, module),
            Barrier(3, 2, FEWER, module, ranked=False),
            Barrier(4, 1, FEWER, module, parties=2),
        ]
    if hasattr(module, "EVENT"):
        return [Event((("wait", "try"), ("wait",), ("set", "clear", "set")), module)]
    if hasattr(module, "ONCE"):
        return [
            Once((("value",),) * 3, SOME, module),
            Once((("error",), ("value", "retry"), ("quit", "value")), FEWER, module),
            Once((("owe error", "owe"), ("owe",), ("owe",)), FEWER, module),
        ]
    return [
        Fence(3, 2, None, FEWER, module),
        Fence(3, 2, 0, FEWER, module),
        Fence(2, 3, None, FEWER, module),
        Fence(3, 1, None, FEWER, module, lasting=True),
    ]


MUTANTS = {
    # admission
    "a grant skips those that do not fit": Mutant(
        admission,
        "                row.extend(entries[index:])\n                break\n",
        "                row.append(entry)\n                continue\n",
    ),
    "a death is not told": Mutant(admission, "record.recovered or died", "record.recovered"),
    "a grant that came too late swallows a death": Mutant(admission, "record.recovered or untold", "record.recovered"),
    "a later grant has the same token": Mutant(admission, "            token += 1\n", ""),
    "a reader overtakes a waiting writer": Mutant(
        admission, "entries[-1].token and _fits(entries,", "_fits([entry for entry in entries if entry.token],"
    ),
    "leaving does not serve the next": Mutant(
        admission,
        "served, woken = _serve(Record(record.token, record.permits, record.recovered or untold, kept), op.at)",
        "served, woken = Record(record.token, record.permits, record.recovered or untold, kept), ()",
    ),
    "a granted waiter is not woken": Mutant(admission, "            woken.append(entry.ticket)\n", ""),
    "asking again takes a second place": Mutant(
        admission, "        if entry.ticket == op.ticket:\n", "        if entry.ticket == op.ticket and entry.token:\n"
    ),
    "a downgrade lets nobody in": Mutant(
        admission,
        "served, woken = _serve(record._replace(entries=row), op.at)",
        "served, woken = record._replace(entries=row), ()",
    ),
    "a refused try takes a place": Mutant(admission, "    if not fits and not op.wait:\n", "    if False:\n"),
    "one permit too many": Mutant(admission, "len(holding) < permits", "len(holding) <= permits"),
    "eviction leaves what waits": Mutant(
        admission, "if entry.ticket.session != op.session]", "if entry.ticket.session != op.session or not entry.token]"
    ),
    "holders are not watched": Mutant(
        admission, "Outcome(WAITING, watch=holders, position=index)", "Outcome(WAITING, position=index)"
    ),
    "holders are not bounded": Mutant(
        admission, "    if len(entries) >= LIMIT:\n", "    if not fits and len(entries) >= LIMIT:\n"
    ),
    # barrier
    "the last arrival completes without a look": Mutant(
        barrier,
        "    return arrived, _standing(arrived, len(record.arrivals))\n",
        "    if len(arrived.arrivals) == arrived.parties:\n"
        "        return _complete(arrived, Complete(op.ticket, record.generation))\n"
        "    return arrived, _standing(arrived, len(record.arrivals))\n",
    ),
    "some parties pass": Mutant(barrier, " or len(tickets) < record.parties:", ":"),
    "a party that leaves breaks nothing": Mutant(
        barrier,
        "after, woken = _break(record._replace(arrivals=others), broken)",
        "after, woken = record._replace(arrivals=others), ()",
    ),
    "a death before anybody came back is forgotten": Mutant(barrier, "rest._replace(lost=rest.lost + absent)", "rest"),
    "a verdict is dropped by the next one": Mutant(barrier, "notices=record.notices + passed", "notices=passed"),
    "the waiting do not watch one another": Mutant(
        barrier, "watch = {record.arrivals[index - 1].ticket.session}", "watch = {mine.session}"
    ),
    "a straggler begins afresh though a witness lives": Mutant(
        barrier, "record.broken is not None and not record.witnesses and not op.lasting:", "record.broken is not None:"
    ),
    "the unseen are not watched": Mutant(
        barrier, "        watch.update(unseen(label) for label in _unseen(record)[:WATCHED])\n", ""
    ),
    "the unseen dead break nothing": Mutant(
        barrier, "    if label not in _unseen(record) or not record.arrivals:\n", "    if True:\n"
    ),
    "a reset wakes nobody": Mutant(barrier, 'Outcome("reset", unpark=woken)', 'Outcome("reset")'),
    # event
    "setting forgets to wake": Mutant(event, 'Outcome("set", unpark=waiting)', 'Outcome("set")'),
    "setting forgets who waited": Mutant(event, "Record(record.floor, True, released)", "Record(record.floor, True)"),
    "clearing holds back who was let go": Mutant(
        event,
        "record._replace(flag=False)",
        "Record(record.floor, False, tuple(Waiter(waiter.ticket, False) for waiter in record.waiters))",
    ),
    # once
    "anybody publishes": Mutant(
        once, "if not record.claims or record.claims[0] != op.ticket:", "if op.ticket not in record.claims:"
    ),
    "a worker's death is not told": Mutant(once, "op.session if worked else record.lost", "record.lost"),
    "a new attempt has the old number": Mutant(
        once, "attempts=record.attempts + len(promoted)", "attempts=record.attempts"
    ),
    "the successor is not woken": Mutant(once, "ONCE.idle(after), unpark=promoted)", "ONCE.idle(after))"),
    "those who waited are not owed": Mutant(once, "record.owed + record.claims\n", "record.owed + record.claims[:1]\n"),
    "a debt outlives its creditors": Mutant(once, "    if record.owed and not owed:\n", "    if False:\n"),
    "a debt is paid to whoever comes": Mutant(
        once, "    if op.ticket in record.owed or not record.owed:\n        result", "    if True:\n        result"
    ),
    "the worker is not watched": Mutant(once, "watch=(record.claims[index - 1].session,)", "watch=()"),
    # fence
    "two write": Mutant(
        fence,
        " or any(seat.state == WRITES for seat in record.seats):\n        return record, ()",
        ":\n        return record, ()",
    ),
    "the death of the writer asked for is not told": Mutant(
        fence,
        "    if record.writer in dead.union(record.absent):\n",
        "    if False:\n",
    ),
    "a turn ends before all had a seat": Mutant(fence, "_full(record) and _begun(record)", "_begun(record)"),
    "who is away is forgotten": Mutant(fence, "    if LEFT in states:\n", "    if False:\n"),
    "a late time-out is not told the result": Mutant(
        fence, 'settled if settled is not None and going and not dead else Outcome("left")', 'Outcome("left")'
    ),
    "a successor is not told of the death": Mutant(
        fence, "lost=wrote[0] if dead and wrote else record.lost", "lost=record.lost"
    ),
    "a lasting result goes with those who had it": Mutant(
        fence,
        "deserted = states == {DEAD} and not (record.lasting and _settled(record) is not None)",
        "deserted = states == {DEAD}",
    ),
    "the next turn does not watch the unseen": Mutant(
        fence, "    needed += tuple(unseen(label) for label in _unseen(record)[:WATCHED])\n", ""
    ),
    "an unseen writer is not watched": Mutant(fence, "        watch = (unseen(record.writer),)\n", "        pass\n"),
    "an absent party is waited for": Mutant(fence, " + len(record.absent) >= record.parties", " >= record.parties"),
    "anybody gives signs of life": Mutant(fence, "    if not writing:\n", "    if False:\n"),
    "the queue is not woken": Mutant(
        fence, "return after, tuple(waiting.ticket for waiting in record.queue)", "return after, ()"
    ),
    "a dead party keeps its seat": Mutant(
        fence, "rest = DEAD if dead else AWAY if settled is None else LEFT", "rest = AWAY if settled is None else LEFT"
    ),
}
