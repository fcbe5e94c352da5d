"""What goes wrong around records that are claimed by links: planted names, full disks, strange leases, other users."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.holder import Holder
from interlock.stores import _claimed
from interlock.stores._heartbeat import Heartbeats
from interlock.stores._space import Space, file_name
from patience import until
from processes import NOBODY, as_root, become_nobody, open_directory, run

TIMEOUT_S = 5.0


@pytest.fixture
def session(tmp_path: Path) -> Iterator[interlock.Session]:
    """A participant in a scope where ``x`` was locked once, in two versions."""
    with interlock.connect(f"file://{tmp_path}/space?primitive=claims") as session:
        session.lock("x").acquire(TIMEOUT_S).release()
        yield session


@pytest.fixture
def folder(tmp_path: Path, session: interlock.Session) -> Path:
    """The directory of ``x``."""
    return tmp_path / "space" / "records" / file_name("x")


@contextmanager
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be one of another machine for those that it meets later."""
    with monkeypatch.context() as patch:
        patch.setattr("interlock.holder._boot_id", lambda: "another machine")
        yield


PLANTS: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "dangling link": lambda path: path.symlink_to("/nowhere"),
    "directory": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "empty file": lambda path: path.touch(),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_as_the_newest_version_is_refused_and_set_aside(
    session: interlock.Session, folder: Path, plant: str
) -> None:
    """The error names the record; nothing is followed, and `break` makes the name usable, its tokens far above."""
    PLANTS[plant](folder / f"{3:016}")
    before = session.lock("y").acquire(TIMEOUT_S).token
    with pytest.raises(interlock.RecordInvalid, match=folder.name) as caught:
        session.lock("x").acquire(TIMEOUT_S)
    assert caught.value.name == "x"
    (invalid,) = (found for found in session.store.records() if isinstance(found, interlock.RecordInvalid))
    assert folder.name in str(invalid)
    aside = session.store.discard("x")
    assert aside is not None
    assert os.lstat(aside).st_nlink > 0
    assert os.path.islink(aside) == ("link" in plant)
    assert session.lock("x").acquire(TIMEOUT_S).token > 1000 * before


@pytest.mark.parametrize("name", ["\u0663" * 16, "1" * 15, "1" * 17, ".0000000000000009", "notes.txt"])
def test_other_names_are_no_versions(session: interlock.Session, folder: Path, name: str) -> None:
    """Whatever else lies in a record's directory is passed over: only 16 plain digits are a version."""
    (folder / name).write_text("not ours")
    assert session.lock("x").acquire(TIMEOUT_S).token == 2


def test_a_listing_that_names_what_cannot_be_opened_is_no_endless_loop(
    session: interlock.Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a version that is gone is listed on and on, whoever asks is told in time, or interrupted at once."""
    listings: list[int] = []
    with monkeypatch.context() as stale:
        stale.setattr(_claimed, "LOOK_S", 0.1)
        stale.setattr(_claimed, "_versions", lambda folder: listings.append(folder) or [99])
        with pytest.raises(interlock.AcquireTimeout):
            session.lock("x").acquire(0.1)
        with pytest.raises(interlock.Unavailable, match=folder.name):
            session.store.read("x")
        interrupt = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            session.lock("x").acquire()
    assert len(listings) < 1000, "it asks again without a pause"
    assert session.lock("x").acquire(TIMEOUT_S).token == 2


@pytest.mark.parametrize("after", [False, True])
def test_a_cleaner_in_the_middle_of_a_step(
    session: interlock.Session, folder: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the record is removed just before its version is linked, or just after, no hold is given that none can see."""
    link, links = os.link, []

    def swept(*args: Any, **options: Any) -> None:
        links.append(args)
        if after:
            link(*args, **options)
        if len(links) == 1:
            shutil.rmtree(folder)
        if not after:
            link(*args, **options)

    monkeypatch.setattr(os, "link", swept)
    assert session.lock("x").acquire(TIMEOUT_S).token == 1
    assert session.lock("x").locked()


@pytest.mark.parametrize("plant", ["link", "file"])
def test_what_is_planted_as_a_records_directory_is_refused(
    session: interlock.Session, folder: Path, tmp_path: Path, plant: str
) -> None:
    """Nothing is written where a link in its place leads."""
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere) if plant == "link" else folder.touch()
    with pytest.raises(interlock.RecordInvalid, match="not a directory"):
        session.lock("x").acquire(TIMEOUT_S)
    assert list(elsewhere.iterdir()) == []


def test_a_full_disk_is_told_and_changes_nothing(small_disk: Path) -> None:
    """Neither acquire, release nor a new session succeeds; what is held stays held, and all goes on with room."""
    url, filler = f"file://{small_disk}/space?primitive=claims", small_disk / "filler"

    def child() -> None:
        session = interlock.connect(url)
        lock = session.lock("x")
        grant = lock.acquire(TIMEOUT_S)
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        for attempt in grant.release, lambda: session.lock("y").acquire(TIMEOUT_S), lambda: interlock.connect(url).id:
            with pytest.raises(interlock.Unavailable, match="the disk is full"):
                attempt()
        assert lock.locked()
        assert not session.lost
        filler.unlink()
        grant.release()
        assert lock.acquire(TIMEOUT_S).token == grant.token + 1

    run(child)


@as_root
def test_what_root_makes_in_somebodys_space_is_theirs() -> None:
    """Root takes a lock in a user's space, or is the first there: the user goes on with every record, old and new."""

    def take(name: str, scope: str = "space") -> None:
        with interlock.connect(f"file://{place}/{scope}?primitive=claims") as session:
            session.lock(name).acquire(TIMEOUT_S).release()

    def as_user() -> None:
        become_nobody()
        for name in ("x", "y"):
            take(name)

    with open_directory() as place:
        take_here = interlock.connect(f"file://{place}/elsewhere?primitive=claims")
        take_here.lock("x").acquire(TIMEOUT_S).release()  # whatever is loaded late is loaded now
        take_here.close()
        run(as_user)
        take("x")
        take("z")
        run(lambda: (become_nobody(), take("z")))
        (place / "given").mkdir()
        os.chown(place / "given", NOBODY, NOBODY)
        take("x", "given")
        for scope in (place / "space", place / "given"):
            assert {path.stat().st_uid for path in (scope, *scope.rglob("*"))} == {NOBODY}


def test_a_group_shares_the_directories_of_records(tmp_path: Path) -> None:
    """In a setgid directory they are the group's to write."""
    shared = tmp_path / "group"
    shared.mkdir()
    shared.chmod(0o2770)
    with interlock.connect(f"file://{shared}/space?primitive=claims") as session:
        session.lock("x").acquire(TIMEOUT_S).release()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (shared / "space" / "records").rglob("*")}
    assert modes == {0o2770, 0o660}


@pytest.mark.parametrize("ttl_s", [0, -5, 1e9, float("inf")])
def test_any_lease_is_told_to_others(tmp_path: Path, ttl_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short or long it is asked for, others can read it, and its heart beats for as long as it lasts."""
    others = hearts()
    with interlock.connect(f"file://{tmp_path}/space?primitive=claims", ttl_s=ttl_s) as session:
        session.lock("x").acquire(TIMEOUT_S)
        space = Space(f"{tmp_path}/space", None, create=False)
        with far_away(monkeypatch):
            assert Heartbeats().alive(space, session.id).state == "alive"
        assert len(hearts() - others) == 1
        space.close()
    until(lambda: hearts() <= others)


def hearts() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "interlock heartbeat"}


def test_fifty_sessions_of_one_process_live(tmp_path: Path) -> None:
    """One thread keeps them all alive beyond their lease, and ends with them."""
    url, before = f"file://{tmp_path}/space?primitive=claims", threading.enumerate()
    sessions = [interlock.connect(url, ttl_s=0.8) for _ in range(50)]
    for number, session in enumerate(sessions):
        session.lock(f"lock {number}").acquire(TIMEOUT_S)
    (heart,) = (thread for thread in threading.enumerate() if thread not in before)
    time.sleep(1.2)
    assert not any(session.lost for session in sessions)
    for session in sessions:
        session.close()
    heart.join(TIMEOUT_S)
    assert not heart.is_alive()


def test_thousands_of_silent_sessions_are_all_found_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen of one is not forgotten while the others are looked at."""
    space, theirs, mine = Space(f"{tmp_path}/space", "claims", create=True), Heartbeats(), Heartbeats()
    ids = [f"{number:016x}" for number in range(1100)]
    with far_away(monkeypatch):
        holder = Holder.here()
    for session in ids:
        theirs.begin(space, session, holder, 0.5)
    theirs.close_all()  # nobody's heart beats from here on
    until(lambda: {mine.alive(space, session).state for session in ids} == {"dead"})
    space.close()


@pytest.mark.parametrize("nap_s", [0.0, 0.4])
def test_sessions_go_on_when_their_space_was_removed(session: interlock.Session, tmp_path: Path, nap_s: float) -> None:
    """Whether the next use or the next heartbeat notices it first: a new space is made, and what was held is lost."""
    with interlock.connect(session.url, ttl_s=1.0) as other:
        held = other.lock("held").acquire(TIMEOUT_S)
        shutil.rmtree(tmp_path / "space")
        time.sleep(nap_s)
        assert other.lock("x").acquire(TIMEOUT_S).token == 1
        with pytest.raises(interlock.SessionLost):
            held.release()
