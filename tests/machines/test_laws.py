"""The laws of ``interlock.abc`` over random walks, and what a machine makes of records that it did not write."""

from __future__ import annotations

import json
import random
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.abc import Evict, Leave, Ticket
from interlock.machines import BY_KIND, admission, barrier, event, fence, once
from machines.laws import examine, tickets
from machines.walks import SESSIONS, ops_of, walk, walks

MODULES: dict[str, ModuleType] = {
    "lock": admission, "semaphore": admission, "barrier": barrier, "event": event, "once": once, "fence": fence,
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", MODULES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.integers(10**300, 10**320),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def draw_record(data: st.DataObject, kind: str) -> Any:
    """The record at the end of a random walk."""
    return walk(MODULES[kind], BY_KIND[kind], data.draw(walks(MODULES[kind], BY_KIND[kind])))


def test_every_machine_is_tested() -> None:
    """No machine escapes the laws."""
    assert set(MODULES) == set(BY_KIND)


@KINDS
@settings(max_examples=120)
@given(data=st.data())
def test_every_step_keeps_every_law(kind: str, data: st.DataObject) -> None:
    """Total, pure, idempotent, head granted, tokens grow, tickets once, encoding: at each step of any walk."""
    draw_record(data, kind)


@KINDS
@settings(max_examples=60)
@given(data=st.data())
def test_the_size_is_bounded(kind: str, data: st.DataObject) -> None:
    """With room for three, no sequence of ops makes a record larger; whoever does not fit is told ``limit``."""
    with patch.object(MODULES[kind], "LIMIT", 3):
        assert len(tickets(kind, draw_record(data, kind))) <= 3


@KINDS
def test_one_too_many_is_told_the_limit(kind: str) -> None:
    """The ticket after the last that fits is told so and leaves no trace, even where it would be granted at once."""
    machine, module = BY_KIND[kind], MODULES[kind]
    ask = {
        "lock": lambda who: module.Acquire(who, shared=True),
        "semaphore": lambda who: module.Acquire(who, shared=True, permits=9),
        "barrier": lambda who: module.Arrive(who, 9),
        "event": lambda who: module.Wait(who),
        "once": lambda who: module.Claim(who),
        "fence": lambda who: module.Join(who, str(who), 9),
    }[kind]
    with patch.object(module, "LIMIT", 3):
        record = machine.initial(0)
        for serial in range(3):
            record, outcome = machine.apply(record, ask(Ticket("a", serial)))
            assert outcome.state != "limit"
        after, outcome = machine.apply(record, ask(Ticket("a", 3)))
    assert outcome.state == "limit"
    assert outcome.value == 3
    assert after is record


@KINDS
@settings(max_examples=120)
@given(data=st.data(), session=st.sampled_from(SESSIONS), why=st.sampled_from(("", "timed out")))
def test_evicting_is_leaving_with_all_tickets(kind: str, data: st.DataObject, session: str, why: str) -> None:
    """Evicting a session leaves the others where leaving with its tickets, the latest first, would leave them.

    What a death adds is left aside: that it is told (`recovered`, a fence's dead seat or failed turn, a barrier's
    reason), that a dead seat stays taken, so that others may have to queue, and that a death also strikes the member of
    a barrier that has not come back.
    """
    machine, record = BY_KIND[kind], draw_record(data, kind)
    evicted, _ = machine.apply(record, Evict(session, 0, why))
    left = record
    for ticket in reversed(tickets(kind, record)):
        if ticket.session == session:
            left, _ = machine.apply(left, Leave(ticket, 0, why))
    if kind == "barrier" and any(member.ticket.session == session for member in record.members):
        return
    if kind == "fence" and (evicted.died or evicted.epoch != left.epoch):
        assert set(tickets(kind, left)) == set(tickets(kind, evicted))
        return
    assert _others(kind, left) == _others(kind, evicted)


def _others(kind: str, record: Any) -> Any:
    """What the living see of a record, without what a death adds."""
    if kind in ("lock", "semaphore"):
        return record.token, [(entry.ticket, entry.token, entry.shared) for entry in record.entries]
    if kind == "barrier":
        notices = [(notice.ticket, notice.place, notice.broken is None) for notice in record.notices]
        return record.generation, record.arrivals, sorted(notices), record.broken is None
    if kind == "once":
        return record._replace(lost="")
    if kind == "fence":
        return record.epoch, sorted(tickets(kind, record)), record.value, record.error
    return record


@KINDS
@given(floor=st.integers(0, 10**15))
def test_tokens_start_above_the_floor(kind: str, floor: int) -> None:
    """An unused record is idle, remembers the floor and survives its encoding."""
    machine = BY_KIND[kind]
    record = machine.initial(floor)
    assert machine.idle(record)
    assert machine.token(record) == floor
    assert machine.decode(machine.encode(record)) == record
    assert machine.sessions(record) == {}


@pytest.mark.parametrize("kind", ["lock", "semaphore", "event", "once"])
@settings(max_examples=120)
@given(data=st.data())
def test_an_idle_record_is_as_good_as_none(kind: str, data: st.DataObject) -> None:
    """The next to come is told by an idle record what it would be told without it.

    Barrier and fence also remember who took part in the last generation or turn, which goes with an idle record.
    """
    machine, record = BY_KIND[kind], draw_record(data, kind)
    if machine.idle(record):
        op = data.draw(ops_of(MODULES[kind], kind))
        _, told = machine.apply(record, op)
        _, afresh = machine.apply(machine.initial(machine.token(record)), op)
        assert told.state == afresh.state


@KINDS
@settings(max_examples=100)
@given(data=st.data())
def test_a_record_that_was_tampered_with_is_refused_or_works(kind: str, data: st.DataObject) -> None:
    """A changed encoding is a `ValueError`, never another error; what passes encodes as it is and takes any op."""
    machine = BY_KIND[kind]
    tree = json.loads(machine.encode(draw_record(data, kind)))
    _spoil(tree, data.draw(st.randoms(use_true_random=False)), data.draw(JSON))
    _refused_or_works(kind, json.dumps(tree, separators=(",", ":")), data)


@KINDS
@settings(max_examples=100)
@given(data=st.data())
def test_a_line_with_a_hole_is_refused_or_works(kind: str, data: st.DataObject) -> None:
    """The same for a line in which some characters are replaced by any others."""
    line = BY_KIND[kind].encode(draw_record(data, kind))
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 6)))
    _refused_or_works(kind, line[:start] + data.draw(st.text(max_size=6)) + line[end:], data)


@KINDS
@settings(max_examples=100)
@given(data=st.data(), tree=JSON)
def test_any_json_is_refused_or_works(kind: str, data: st.DataObject, tree: Any) -> None:
    """The same for JSON that never was a record."""
    _refused_or_works(kind, json.dumps(tree), data)


@KINDS
@pytest.mark.parametrize(
    "line",
    ["", "{", "null", "NaN", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "1e999", '"\ud800"', "\0"],
    ids=["empty", "open", "null", "nan", "deep", "deeper", "long", "huge", "surrogate", "nul"],
)
def test_the_worst_lines_are_refused(kind: str, line: str) -> None:
    """No line at all, none too deep and no number too large gets past `decode` as anything but a `ValueError`."""
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract
        BY_KIND[kind].decode(line)


def _spoil(tree: Any, chance: random.Random, value: Any) -> None:
    """Change one thing somewhere in a tree of JSON: replace it, remove it, or put it in twice."""
    places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if not places:
        return
    place = chance.choice(places)
    if isinstance(tree[place], dict | list) and tree[place] and chance.random() < 0.7:
        _spoil(tree[place], chance, value)
    elif chance.random() < 0.6:
        tree[place] = value
    elif isinstance(tree, list):
        tree.insert(place, tree[place])
    else:
        del tree[place]


def _refused_or_works(kind: str, line: str, data: st.DataObject) -> None:
    machine = BY_KIND[kind]
    try:
        record = machine.decode(line)
    except ValueError:
        return
    assert machine.decode(machine.encode(record)) == record
    machine.sessions(record), machine.idle(record), machine.token(record)
    machine.apply(record, data.draw(ops_of(MODULES[kind], kind)))


@pytest.mark.parametrize("kind", ["once", "fence"])
def test_a_value_too_large_is_refused_and_the_writer_goes_on(kind: str) -> None:
    """A result beyond the bound is told ``limit``; whoever made it has the work still and may say less."""
    machine, module = BY_KIND[kind], MODULES[kind]
    who = Ticket("a", 0)
    request = module.Claim(who) if kind == "once" else module.Join(who, "0", 1)
    record = examine(module, machine, machine.initial(0), request, {who: request}).after
    large = module.Publish(who, "x" * (module.LIMIT_BYTES + 1))
    assert examine(module, machine, record, large, {who: request}).outcome.state == "limit"
    assert examine(module, machine, record, module.Publish(who, "x"), {who: request}).outcome.state == "done"
