"""Records whose versions are claimed by hard links: what the protocol promises, step by step and interleaved."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from crash.processes import Board, collected, fork, kill, wait
from interlock.abc import Leave, Ticket
from interlock.machines.admission import LOCK, Acquire
from interlock.stores import _claimed
from interlock.stores._claimed import KEPT, ClaimedRecords
from interlock.stores._space import file_name
from interlock.stores.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore("file://space", str(tmp_path / "space"), "claims")


def folder(tmp_path: Path, name: str = "name") -> Path:
    return tmp_path / "space" / "records" / file_name(name)


def versions(tmp_path: Path) -> list[int]:
    return sorted(int(entry.name) for entry in folder(tmp_path).iterdir() if entry.name.isdecimal())


def cycle(store: FileStore, serial: int) -> int:
    """Acquire and release; the token."""
    ticket = Ticket("session", serial)
    grant = store.transact("name", LOCK, Acquire(ticket)).value
    store.transact("name", LOCK, Leave(ticket))
    return int(grant[0])


def test_a_version_never_changes_and_the_newest_counts(store: FileStore, tmp_path: Path) -> None:
    """Every step makes the next version, and only so many old ones stay."""
    tokens = [cycle(store, serial) for serial in range(20)]
    assert tokens == list(range(1, 21))
    assert versions(tmp_path) == list(range(40 - KEPT, 41))
    assert store.read("name").version == 40  # type: ignore[union-attr]
    assert not [entry for entry in folder(tmp_path).iterdir() if entry.name.startswith(".")]


def test_asking_again_writes_nothing(store: FileStore, tmp_path: Path) -> None:
    """A waiter that looks whether it is its turn makes no version; giving back always does."""
    holder, waiter = Ticket("a", 1), Ticket("b", 1)
    for ticket in (holder, waiter):
        store.transact("name", LOCK, Acquire(ticket))
    for _ in range(5):
        assert store.transact("name", LOCK, Acquire(waiter)).state == "waiting"
    assert versions(tmp_path) == [1, 2]
    store.transact("name", LOCK, Leave(Ticket("c", 1)))
    assert versions(tmp_path) == [1, 2, 3]


def test_whoever_links_into_the_past_takes_it_back(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that slept while hundreds of versions came and went finds its number free, notices, and asks again."""
    cycle(store, 1)
    other, link, slept = FileStore("file://space", store.path, "claims"), os.link, []

    def sleep_first(*args: Any, **options: Any) -> None:
        if not slept:
            slept.append(args)
            for serial in range(2, 30):
                cycle(other, serial)
        link(*args, **options)

    monkeypatch.setattr(os, "link", sleep_first)
    late = Ticket("late", 1)
    outcome = store.transact("name", LOCK, Acquire(late))
    assert slept[0][1] == _claimed._numbered(3)
    assert (outcome.state, outcome.value[0]) == ("granted", 30)
    assert versions(tmp_path)[0] > 3
    assert other.transact("name", LOCK, Acquire(Ticket("c", 1))).state == "waiting"


def test_a_link_whose_answer_says_no_may_have_been_made(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that a file server got twice says that the name is taken; it is, by this very request."""
    link = os.link

    def twice(*args: Any, **options: Any) -> None:
        link(*args, **options)
        link(*args, **options)

    store._opened()
    monkeypatch.setattr(os, "link", twice)
    assert [cycle(store, serial) for serial in range(3)] == [1, 2, 3]
    assert versions(tmp_path)[-1] == 6


def test_a_link_that_was_not_made_is_an_error(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that left nothing behind is definite, and the next attempt finds everything as it was."""
    cycle(store, 1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "link", lambda *args, **options: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(interlock.Unavailable):
            cycle(store, 2)
    assert cycle(store, 3) == 2


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"interlock 1 v=000000000009 at=0000064 len=0000010 crc=0 \n"])
def test_a_damaged_version_is_refused_and_can_be_set_aside(store: FileStore, tmp_path: Path, content: bytes) -> None:
    """Nothing is taken from a record that cannot be read; `discard` keeps a copy, and tokens go on far above."""
    cycle(store, 1)
    (folder(tmp_path) / _claimed._numbered(3)).write_bytes(content)
    with pytest.raises(interlock.RecordInvalid, match="break"):
        cycle(store, 2)
    assert isinstance(next(iter(store.records())), interlock.RecordInvalid)
    aside = store.discard("name")
    assert aside is not None
    assert Path(aside).read_bytes() == content
    assert store.read("name") is None
    assert cycle(store, 3) > 1 << 32


def test_a_removed_record_keeps_its_numbers_and_tokens(store: FileStore, tmp_path: Path) -> None:
    """An idle record that is retired is listed no more; a late writer finds its numbers taken, tokens go on."""
    cycle(store, 1)
    assert store.retire("name", LOCK)
    assert list(store.records()) == []
    assert not store.retire("name", LOCK)
    assert cycle(store, 2) == 2
    store.transact("name", LOCK, Acquire(Ticket("a", 1)))
    assert not store.retire("name", LOCK), "it is held"


def test_another_kind_is_refused(store: FileStore) -> None:
    """A name is of one kind, until its record is void."""
    with interlock.connect(f"file://{store.path}?primitive=claims") as session:
        session.lock("name").acquire().release()
        with pytest.raises(interlock.Mismatch):
            session.event("name").set()


class Turnstile:
    """Lets one thread at a time do one operation of the directory, in an order that is given beforehand."""

    def __init__(self, order: tuple[int, ...]) -> None:
        self._order = list(order)
        self._moved = threading.Condition()
        self._ended: set[int] = set()
        self.member = threading.local()

    def step(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **options: Any) -> Any:
            me = getattr(self.member, "number", None)
            if me is None:
                return operation(*args, **options)
            with self._moved:
                self._moved.wait_for(lambda: self._next() in (me, None), 20)
                try:
                    return operation(*args, **options)
                finally:
                    if self._order and self._order[0] == me:
                        self._order.pop(0)
                    self._moved.notify_all()

        return stepped

    def _next(self) -> int | None:
        while self._order and self._order[0] in self._ended:
            self._order.pop(0)
        return self._order[0] if self._order else None

    def end(self) -> None:
        with self._moved:
            self._ended.add(self.member.number)
            self._moved.notify_all()


OPERATIONS = ("link", "listdir", "open", "unlink")


def play(path: Path, order: tuple[int, ...], members: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each member acquires (trying once) and, if it got it, leaves; returns the tokens that were given."""
    turnstile, tokens, failures = Turnstile(order), [], []
    stores = [FileStore("file://space", str(path / "space"), "claims") for _ in range(members)]
    for serial in range(6):
        cycle(stores[0], serial)
    for store in stores:
        assert store._opened().words  # made before anybody has to wait for a turn

    def act(number: int) -> None:
        turnstile.member.number = number
        try:
            for serial in range(3):
                ticket = Ticket(f"member{number}", serial)
                outcome = stores[number].transact("name", LOCK, Acquire(ticket))
                if outcome.state == "granted":
                    tokens.append(outcome.value[0])
                stores[number].transact("name", LOCK, Leave(ticket))
        except BaseException as error:
            failures.append(error)
        finally:
            turnstile.end()

    with monkeypatch.context() as stepped:
        stepped.setattr(_claimed, "KEPT", 1)
        stepped.setattr(_claimed, "_LONGEST_PAUSE_S", 0.0)
        for operation in OPERATIONS:
            stepped.setattr(os, operation, turnstile.step(getattr(os, operation)))
        threads = [threading.Thread(target=act, args=(number,), daemon=True) for number in range(members)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not failures, failures
    assert LOCK.idle(LOCK.decode(stores[0].read("name").text))  # type: ignore[union-attr]
    return tokens


def orders(members: int, count: int) -> Iterator[tuple[int, ...]]:
    """Random orders in which one member does some steps, then another: at times so many that versions go."""
    chance = random.Random(7)
    for _ in range(count):
        turns = [(chance.randrange(members), chance.choice((1, 1, 2, 3, 8, 40))) for _ in range(60)]
        yield tuple(member for member, steps in turns for _ in range(steps))


def explore(tmp_path: Path, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order leads to one history: no token is given twice, and nobody stays behind."""
    for number, order in enumerate(orders(members, 200)):
        (path := tmp_path / str(number)).mkdir()
        tokens = play(path, order, members, monkeypatch)
        assert len(set(tokens)) == len(tokens)
        assert all(token > 6 for token in tokens)


@pytest.mark.parametrize("members", [2, 3])
def test_every_order_of_steps_gives_one_history(members: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the directory's operations of several writers interleave, somebody was first."""
    explore(tmp_path, members, monkeypatch)


def unbroken(self: ClaimedRecords, folder: int, version: int, mark: bytes) -> bool:
    """A look that counts only whether versions are missing: the number just below those that are kept leaves no gap."""
    there = _claimed._versions(folder)
    return {*there} >= {*range(version, max(there) + 1)}


@pytest.mark.parametrize("look", [lambda *args: True, unbroken])
def test_a_store_that_does_not_look_back_is_found_out(
    look: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without the chain of marks, who slept believes that it wrote."""
    monkeypatch.setattr(ClaimedRecords, "_stands", look)
    with pytest.raises(AssertionError):
        explore(tmp_path, 3, monkeypatch)


def test_writers_are_killed_at_any_time(tmp_path: Path) -> None:
    """Four processes take a lock again and again while others that do so are killed: one holder, tokens grow."""
    url, board = f"file://{tmp_path}/space?primitive=claims", Board(8)
    inside, tokens, stop = 0, 1, 2

    def take(steady: bool) -> None:
        with interlock.connect(url) as session:
            while not board[stop]:
                with session.lock("name", timeout=60) as grant:
                    if steady:
                        board[inside] += 1
                        assert board[inside] == 1, "two holders"
                    assert grant.token > board[tokens], "a token went back"
                    board[tokens] = grant.token
                    if steady:
                        board[inside] -= 1

    with collected():
        takers = [fork(lambda: take(True)) for _ in range(3)]
        for _ in range(25):
            victim = fork(lambda: take(False))
            threading.Event().wait(random.uniform(0.01, 0.06))
            kill(victim)
        board[stop] = 1
        assert [wait(pid) for pid in takers] == [0] * 3
    assert board[tokens] > 50
