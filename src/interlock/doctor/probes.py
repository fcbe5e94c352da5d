"""The measurements: each is a conversation with two hands, on one host or on two, and ends in a figure or a reason.

A *reason* says in words why something may not be relied on; None is "nothing was found against it". So a probe can
refuse and cannot approve: what it did not provoke, a crash of the file server say, is not known.

What the file store asks of a kernel lock, in the order in which `lock` tries it: it excludes; a test sees it held;
what was written under it is read under it through descriptors that were open before, also beyond the old end of the
file; nothing is lost when both are at it at once; and it is freed when its holder is killed.

Durations are taken by the monotonic clock of this process alone, and include what a message takes: they are bounds.

Layer: above `doctor.hand`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from interlock.doctor.hand import Hand, Refused, do, ends
from interlock.stores._futex import SIZE

FREED_S = 5.0  # what a lock may take to come free after its holder was killed
ADDITIONS = 40  # that each of two processes makes under a lock
ROUNDS = 25  # of a race
_SHORT, _LONG = 64, 9000  # lengths of what is written: as long as what was there, and over several pages
_PINGS = 7
_AHEAD_S = 0.02  # how far ahead a race is arranged, beside what messages take


def lock(primitive: str, one: Hand, other: Hand, patience: float) -> str | None:
    """Why the file store may not use this kernel lock between these two, or None."""
    try:
        for a, b in ((one, other), (other, one)):
            name, soon = fresh("lock"), min(FREED_S, patience / 2)
            do(a, "write", name, "0" * _SHORT)
            do(a, "read", name), do(b, "read", name)  # both have it open, and its bytes in their caches
            why = _handed_over(primitive, a, b, name, soon) or _counted(primitive, a, b, patience / 2)
            if why := why or _freed(primitive, a, b, name, soon):
                return why
    except Refused as refusal:
        return f"the system refuses: {refusal}"
    return None


def _handed_over(primitive: str, a: Hand, b: Hand, name: str, soon: float) -> str | None:
    """What `a` writes under the lock must be what `b` reads when it has it."""
    for length in (_SHORT, _LONG):
        if not do(a, "take", primitive, name):
            return f"{a.host} could not take it though it was free"
        if do(b, "take", primitive, name):
            return f"{_two(a, b)} held it at the same time"
        if not do(b, "tested", primitive, name):
            return f"it looked free to {b.host} while it was held"
        text = os.urandom(length // 2).hex()
        do(a, "write", name, text)
        do(a, "give", primitive, name)
        if not do(b, "wait", primitive, name, soon):
            return f"{b.host} could not take it though it was given back"
        if do(b, "read", name) != text:
            return f"{b.host} reads old bytes under the lock, through a descriptor that was open before"
        do(b, "give", primitive, name)
    return None


def _counted(primitive: str, a: Hand, b: Hand, seconds: float) -> str | None:
    """Of the additions that two make at the same time, none may be lost."""
    name = fresh("count")
    do(a, "write", name, f"{0:08}")
    for hand in (a, b):
        hand.begin("count", primitive, name, ADDITIONS, seconds)
    if not all(ends(a, b)):
        return f"{_two(a, b)} could not take it {ADDITIONS} times each within {seconds:g} s"
    counted = int(do(a, "read", name)) if do(a, "wait", primitive, name, seconds) else 0
    if counted != 2 * ADDITIONS:
        return f"of {2 * ADDITIONS} additions that {_two(a, b)} made under it, {2 * ADDITIONS - counted} were lost"
    do(a, "give", primitive, name)
    return None


def _freed(primitive: str, a: Hand, b: Hand, name: str, soon: float) -> str | None:
    """A holder that is killed must not keep the lock."""
    do(a, "take", primitive, name)
    a.kill()
    if not do(b, "wait", primitive, name, soon):
        return f"it was still held {soon:g} s after its holder on {a.host} was killed"
    do(b, "give", primitive, name)
    return None


def unique(step: str, one: Hand, other: Hand) -> str | None:
    """Why a name made by this step (``create`` or ``link``) does not belong to one alone, or None."""
    try:
        for a, b in ((one, other), (other, one)):
            name = fresh(step)
            if not do(a, step, name):
                return f"{a.host} could not make a new name"
            if do(b, step, name):
                return f"{b.host} made a name that {a.host} had made before"
            if not do(b, "look", "listed", name):
                return f"{b.host} did not list a name that {a.host} had made before"
        ahead = _AHEAD_S + 2 * max(clock(hand)[0] for hand in (one, other))
        name, start = fresh(step), time.time() + ahead
        for hand in (one, other):
            hand.begin("race", step, name, ROUNDS, start + hand.ahead)
        won = [sum(both) for both in zip(*ends(one, other), strict=True)]
    except Refused as refusal:
        return f"the system refuses: {refusal}"
    bad = sum(winners != 1 for winners in won)
    return f"{bad} of {ROUNDS} races between {_two(one, other)} had no winner or two" if bad else None


def visibility(one: Hand, other: Hand, patience: float) -> dict[str, float | None]:
    """Within how many seconds either sees what the other does; None where that was not seen at all."""
    there, back = _seen(one, other, patience), _seen(other, one, patience)
    both = ((key, there[key], back[key]) for key in there)
    return {key: None if a is None or b is None else max(a, b) for key, a, b in both}


def _seen(a: Hand, b: Hand, patience: float) -> dict[str, float | None]:
    """`b` has looked before, so it may have the old state in a cache, and looks until it sees what `a` has done."""
    name, seen = fresh("seen"), {}
    for figure, step, arguments, how, result in (
        ("new_name_s", "create", (), "size", 0),
        ("renamed_s", "replace", ("old",), "text", "old"),
        ("rewritten_s", "rewrite", ("new",), "text", "new"),
        ("appended_s", "append", ("er",), "size", 5),
    ):
        do(b, "look", how, name)
        b.begin("expect", how, name, result, patience / 2)
        began = time.monotonic()
        do(a, step, name, *arguments)
        seen[figure] = round(time.monotonic() - began, 6) if b.end() else None
    return seen


def mapping(a: Hand, b: Hand) -> bool:
    """Whether a word that one process changes in a mapped file is seen by another in its own mapping."""
    name = fresh("map")
    try:
        do(a, "rewrite", name, "\0" * SIZE)
        before = do(b, "word", name)
        do(a, "wake", name)
        return bool(do(b, "word", name) != before)
    except Refused:
        return False


def clock(hand: Hand) -> tuple[float, float]:
    """The round trip to a hand in seconds, and how far its wall clock is ahead: known to half a round trip.

    The quickest of several counts, as its answer lay least in queues. Source: Mills, RFC 5905, the clock filter.
    """
    trips = []
    for _ in range(_PINGS):
        began, ours = time.monotonic(), time.time()
        theirs = do(hand, "clock")
        trip = time.monotonic() - began
        trips.append((trip, theirs - (ours + trip / 2)))
    return min(trips)


def server_ahead(hand: Hand) -> float:
    """How many seconds the file server's clock is before that of a host."""
    found: Any = do(hand, "server_ahead", fresh("clock"))
    return round(float(found), 6)


def fresh(kind: str) -> str:
    """A name that was not used before."""
    return f"{kind}-{os.urandom(6).hex()}"


def _two(a: Hand, b: Hand) -> str:
    return f"two processes of {a.host}" if a.host == b.host else f"{a.host} and {b.host}"
