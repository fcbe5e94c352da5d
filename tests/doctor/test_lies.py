"""Primitives that lie are caught: each test breaks one thing, and the verdict must name it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor.conftest import left
from interlock import doctor
from interlock.doctor import probes
from interlock.doctor.hand import OwnHand, Worker
from interlock.stores import _mount
from interlock.stores._kernel_lock import PRIMITIVES

FLOCK = PRIMITIVES["flock"]
PATIENCE = 2.0


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Callable[[], tuple[OwnHand, OwnHand]]]:
    """Makes two processes of this host, which see what was changed before."""
    folder = os.open(tmp_path, os.O_RDONLY)
    made: list[OwnHand] = []

    def make() -> tuple[OwnHand, OwnHand]:
        made.extend((OwnHand("here", folder, 10), OwnHand("here", folder, 10)))
        return made[0], made[1]

    yield make
    for hand in made:
        hand.kill()
    os.close(folder)


Hands = Callable[[], tuple[OwnHand, OwnHand]]


def lying(monkeypatch: pytest.MonkeyPatch, **lies: Any) -> None:
    """Let flock do something else than it says."""
    monkeypatch.setitem(PRIMITIVES, "flock", FLOCK._replace(**lies))


def test_the_truth_passes(hands: Hands) -> None:
    """Nothing is found against a lock that keeps its word: what follows is caught for its lie alone."""
    assert probes.lock("flock", *hands(), PATIENCE) is None


def test_a_lock_that_everybody_gets(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who hold at once are caught."""
    lying(monkeypatch, try_lock=lambda fd: True)
    assert probes.lock("flock", *hands(), PATIENCE) == "two processes of here held it at the same time"


def test_a_lock_that_nobody_gets(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is never granted is of no use either."""
    lying(monkeypatch, try_lock=lambda fd: False)
    assert probes.lock("flock", *hands(), PATIENCE) == "here could not take it though it was free"


def test_a_test_that_finds_everything_free(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lives is told from who is dead by that test."""
    lying(monkeypatch, held_by_other=lambda fd: False)
    assert probes.lock("flock", *hands(), PATIENCE) == "it looked free to here while it was held"


def test_a_lock_that_is_never_given_back(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could go on after the first holder."""
    lying(monkeypatch, unlock=lambda fd: None)
    assert probes.lock("flock", *hands(), 0.2) == "here could not take it though it was given back"


def test_a_lock_that_outlives_its_holder(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark in the file excludes as well as any lock, until its holder is killed."""

    def mark(fd: int) -> bool:
        if not FLOCK.try_lock(fd):
            return False
        try:
            if os.pread(fd, 1, 1 << 20):
                return False
            os.pwrite(fd, b"x", 1 << 20)
            return True
        finally:
            FLOCK.unlock(fd)

    lying(
        monkeypatch,
        try_lock=mark,
        unlock=lambda fd: os.ftruncate(fd, 1 << 20),
        held_by_other=lambda fd: bool(os.pread(fd, 1, 1 << 20)),
    )
    monkeypatch.setattr(
        Worker, "read", lambda self, name: os.pread(self._descriptor(name), 9000, 0).decode().strip("\0")
    )
    why = probes.lock("flock", *hands(), PATIENCE)
    assert why == "it was still held 1 s after its holder on here was killed"


def test_a_lock_that_the_impatient_get(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """What excludes at the first attempt, but not at the tenth, loses additions."""
    refusals: list[int] = []

    def impatient(fd: int) -> bool:
        refusals.append(fd)
        if FLOCK.try_lock(fd) or len(refusals) > 10:
            refusals.clear()
            return True
        return False

    write = Worker.write
    monkeypatch.setattr(Worker, "write", lambda *arguments: (time.sleep(0.001), write(*arguments))[1])
    lying(monkeypatch, try_lock=impatient)
    assert "additions that two processes of here made under it" in (probes.lock("flock", *hands(), 10.0) or "")


def test_bytes_from_a_cache(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that reads what it has read before, lock or no lock, is caught."""
    cache: dict[str, str] = {}
    read = Worker.read
    monkeypatch.setattr(Worker, "read", lambda self, name: cache.setdefault(name, read(self, name)))
    assert "here reads old bytes under the lock" in (probes.lock("flock", *hands(), PATIENCE) or "")


def test_a_size_from_a_cache(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that grew must be read as a whole: an old size is as bad as old bytes."""
    read = Worker.read
    monkeypatch.setattr(Worker, "read", lambda self, name: read(self, name)[:64])
    assert "here reads old bytes under the lock" in (probes.lock("flock", *hands(), PATIENCE) or "")


def test_a_lock_that_the_system_refuses(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own words are the reason."""

    def refuse(fd: int) -> bool:
        raise OSError(37, "No locks available")

    lying(monkeypatch, try_lock=refuse)
    assert probes.lock("flock", *hands(), PATIENCE) == "the system refuses: No locks available, on here"


def test_a_link_that_replaces(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that takes a name away from whoever has it excludes nobody."""
    monkeypatch.setattr(os, "link", lambda old, new, **places: None)
    assert probes.unique("link", *hands()) == "here made a name that here had made before"


def test_a_creation_that_forgets_to_look(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who make one name are caught in the race, even if they never do so one after the other."""
    create, made = Worker.create, os.O_CREAT | os.O_WRONLY

    def careless(self: Worker, name: str) -> bool:
        if name.count(".") == 0:
            return create(self, name)
        os.close(os.open(name, made, dir_fd=self._folder))
        return True

    monkeypatch.setattr(Worker, "create", careless)
    assert probes.unique("create", *hands()) == "25 of 25 races between two processes of here had no winner or two"


def test_a_name_that_a_listing_lacks(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims read the newest version from a listing."""
    look = Worker.look
    monkeypatch.setattr(Worker, "look", lambda self, how, name: how != "listed" and look(self, how, name))
    assert probes.unique("link", *hands()) == "here did not list a name that here had made before"


def test_what_is_never_seen_has_no_figure(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that is not seen in time is None, and the others have their figures."""
    look = Worker.look
    monkeypatch.setattr(Worker, "look", lambda self, how, name: "old" if how == "text" else look(self, how, name))
    seen = probes.visibility(*hands(), 2.0)
    assert seen.pop("rewritten_s") is None
    assert all(figure is not None and 0 < figure < 5 for figure in seen.values())


def test_what_was_looked_at_before_may_be_in_a_cache(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a name has usually looked for it before, so a cache of what was not there counts."""
    missed: dict[str, float] = {}
    look, expect = Worker.look, Worker.expect

    def cached(self: Worker, how: str, name: str) -> Any:
        if name in missed and time.monotonic() - missed[name] < 0.5:
            return None
        found = look(self, how, name)
        if found is None:
            missed[name] = time.monotonic()
        return found

    monkeypatch.setattr(Worker, "look", cached)
    monkeypatch.setattr(Worker, "expect", lambda *arguments: (time.sleep(0.1), expect(*arguments))[1])
    assert (probes.visibility(*hands(), PATIENCE)["new_name_s"] or 0) > 0.3


def test_a_mapping_of_ones_own(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that only their own process sees change wake nobody."""
    assert probes.mapping(*hands()) is True
    monkeypatch.setattr("interlock.stores._futex.Words.wake", lambda self, index: None)
    for hand in hands():
        hand.kill()
    assert probes.mapping(*hands()) is False


def test_nothing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither locks nor links exclude, the verdict is to go elsewhere, and the file store is told."""
    for name, primitive in list(PRIMITIVES.items()):
        monkeypatch.setitem(PRIMITIVES, name, primitive._replace(try_lock=lambda fd: True))
    monkeypatch.setattr(os, "link", lambda old, new, **places: None)
    verdict = doctor.examine(tmp_path)
    assert (verdict.decided, verdict.primitive, verdict.url) == (True, None, None)
    assert set(verdict.refused) == {"ofd", "flock", "lockf", "claims"}
    assert "use another one, or another store" in verdict.sentence
    pinned = _mount.verdict_for(str(tmp_path))
    assert pinned is not None
    assert pinned["primitive"] is None
    assert left(tmp_path) == [_mount.VERDICT]


def test_no_locks_on_one_host_are_no_locks_between_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared mount one host decides only against kernel locks: then claims follow without a second host."""
    for name, primitive in list(PRIMITIVES.items()):
        monkeypatch.setitem(PRIMITIVES, name, primitive._replace(try_lock=lambda fd: True))
    monkeypatch.setattr(_mount, "may_be_shared", lambda path: True)
    verdict = doctor.examine(tmp_path)
    assert (verdict.decided, verdict.primitive, verdict.pinned) == (True, "claims", True)
