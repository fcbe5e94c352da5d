"""Work that is done once, in shared memory: the files of its results, who dies beside them, and what is remembered."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from conftest import mounted_disk
from crash.processes import Board, collected, fork, wait
from interlock import clearing
from interlock.machines.once import ONCE
from interlock.shm import store as shm_store
from interlock.stores._space import file_name
from patience import until
from shm.conftest import Connect, folder


def fail() -> None:
    """Raises what a computation raises."""
    raise LookupError("no such key")


def results(url: str, name: str = "a") -> list[Path]:
    """The files of a name's results."""
    place = folder(url) / "results" / file_name(name)
    return list(place.iterdir()) if place.exists() else []


def files(session: interlock.Session) -> Any:
    """What writes and reads the files of results for a session of this process."""
    assert session.id
    return session.store._regions.results  # type: ignore[attr-defined]


def claims(session: interlock.Session, name: str = "a") -> int:
    """How many work or wait for the result."""
    stored = session.store.read(name)
    return len(ONCE.decode(stored.text).claims) if stored is not None else 0


def once(session: interlock.Session, name: str = "a", **options: Any) -> Any:
    """An object as the user has it."""
    return interlock.Once(session, name, **options)


# -- files that somebody removed or changed


def test_a_result_whose_file_is_gone_is_told_until_it_is_forgotten(connect: Connect, url: str) -> None:
    """The error says where it was and what helps; nobody computes beside a result that is kept; `forget` helps."""
    one, other = connect(), connect()
    one.once("a", lambda: 1)
    [file] = results(url)
    shutil.rmtree(file.parent)
    for session in (one, other):
        with pytest.raises(interlock.RecordInvalid, match="forget the result") as told:
            session.once("a", pytest.fail)
        assert told.value.path == str(file)
    once(other).forget()
    assert one.once("a", lambda: 2) == other.once("a", pytest.fail) == 2


def plant_nothing(file: Path, victim: Path) -> None:
    file.write_bytes(b"")


def plant_garbage(file: Path, victim: Path) -> None:
    file.write_bytes(os.urandom(1000))


def plant_another_letter(file: Path, victim: Path) -> None:
    content = file.read_bytes()
    assert b"beta" in content
    file.write_bytes(content.replace(b"beta", b"meta"))


def plant_symlink(file: Path, victim: Path) -> None:
    """A link to something of the very kind that is expected."""
    shutil.move(file, victim)
    file.symlink_to(victim)


def plant_directory(file: Path, victim: Path) -> None:
    file.unlink()
    file.mkdir()


def plant_fifo(file: Path, victim: Path) -> None:
    file.unlink()
    os.mkfifo(file)


PLANTED = [plant_nothing, plant_garbage, plant_another_letter, plant_symlink, plant_directory, plant_fifo]


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("way", ["forget", "break"])
def test_what_is_planted_at_a_result_is_told(
    connect: Connect, url: str, tmp_path: Path, plant: Callable[[Path, Path], None], way: str
) -> None:
    """It is an error that says where, never a value; the other names are listed; `forget` and `break` help, and what
    a link leads to stays as it is."""
    session, victim = connect(), tmp_path / "victim"
    session.once("a", lambda: "alpha beta")
    session.once("b", lambda: 1)
    [file] = results(url)
    plant(file, victim)
    before = victim.read_bytes() if victim.exists() else None
    with pytest.raises(interlock.RecordInvalid, match="forget the result") as told:
        connect().once("a", pytest.fail)
    listed = {getattr(stored, "name", None) or stored.path for stored in session.store.records()}
    assert told.value.path == str(file)
    assert listed == {str(file), "b"}
    if way == "forget":
        once(session).forget()
    else:
        assert clearing.break_(session.store, "a", "damaged")
    assert connect().once("a", lambda: 2) == session.once("a", pytest.fail) == 2
    assert before == (victim.read_bytes() if victim.exists() else None)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Scopes in a file system of their own, with room for a few objects."""
    with mounted_disk(tmp_path / "shm", "400k") as disk:
        monkeypatch.setattr(shm_store, "PLACE", str(disk))
        yield disk


def test_a_full_file_system_is_told_to_the_worker_and_the_next_one_computes(small: Path) -> None:
    """A result for which there is no room is nobody's: its worker is told at once, and who waits computes."""
    filler, answers = small / "filler", []
    with interlock.connect("shm://full") as one, interlock.connect("shm://full") as other:
        waiting = threading.Thread(
            target=lambda: answers.append(other.once("a", lambda: (filler.unlink(), "anew")[1])), daemon=True
        )

        def fill() -> int:
            waiting.start()
            until(lambda: claims(one) == 2)
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            return 1

        with pytest.raises(interlock.Unavailable, match="full"):
            one.once("a", fill)
        waiting.join(20)
        assert answers == ["anew"]
        assert one.once("a", pytest.fail) == "anew"
        assert len(results("shm://full")) == 1


def test_files_of_results_do_not_pile_up(connect: Connect, url: str) -> None:
    """Whatever became of the attempts before, there is one file at most; and none when the object goes."""
    one, other = connect(), connect()
    for number in range(20):
        for error in (fail, lambda: other.once("a", pytest.fail, timeout=0), interrupted):
            with pytest.raises((LookupError, interlock.AcquireTimeout, KeyboardInterrupt)):
                one.once("a", error, retry=True)
            assert len(results(url)) <= 1
        assert other.once("a", lambda number=number: number, retry=True) == number
        assert len(results(url)) == 1
        once(one).forget()
        assert results(url) == []
        assert once(one, keep=False).run(lambda: "x" * 20_000) == "x" * 20_000
        assert results(url) == []
    other.once("a", lambda: 1)
    assert not one.store.retire("a", ONCE)
    once(one).forget()
    assert one.store.retire("a", ONCE)
    assert list((folder(url) / "results").iterdir()) == []


def interrupted() -> None:
    raise KeyboardInterrupt


# -- what an object remembers


def test_a_known_result_is_not_read_again(connect: Connect, url: str) -> None:
    """A process that has read a kept result has it without the file, until anybody forgets it; others are told."""
    one, other = connect(), connect()
    mine = once(one)
    assert mine.run(lambda: {"x": 1}) == mine.run(pytest.fail) == {"x": 1}
    results(url)[0].unlink()

    def stranger() -> None:
        with pytest.raises(interlock.RecordInvalid):
            once(interlock.connect(url)).run(pytest.fail)
        assert mine.run(pytest.fail) == {"x": 1}
        once(interlock.connect(url)).forget()

    with collected():
        assert mine.run(pytest.fail) == other.once("a", pytest.fail) == {"x": 1}
        assert wait(fork(stranger)) == 0
    assert mine.run(lambda: 2) == other.once("a", pytest.fail) == 2
    once(other).forget()
    assert once(other).run(lambda: 3) == 3
    assert mine.run(pytest.fail) == 3


def test_a_known_error_can_be_tried_again(connect: Connect) -> None:
    """It is raised anew for each who asks, until somebody retries, and whoever retries is not told it."""
    one, other = connect(), connect()
    mine = once(one)
    raised = []
    for _ in range(3):
        with pytest.raises(LookupError, match="no such key") as told:
            mine.run(fail)
        raised.append(told.value)
    assert len({id(error) for error in raised}) == 3
    assert once(other, retry=True).run(lambda: 1) == 1
    assert mine.run(pytest.fail) == 1


def test_what_is_known_ends_with_the_object(connect: Connect) -> None:
    """An idle object went and was made anew under the name: its result is the one that counts."""
    one, other = connect(), connect()
    mine = once(one)
    assert mine.run(lambda: 1) == mine.run(pytest.fail) == 1
    once(other).forget()
    assert other.store.retire("a", ONCE)
    assert once(other).run(lambda: 2) == 2
    assert mine.run(pytest.fail) == 2


def test_each_reader_of_a_known_result_has_its_own(connect: Connect) -> None:
    """Who changes what it was given changes nobody else's."""
    mine = once(connect())
    for _ in range(3):
        value = mine.run(lambda: {"x": [1]})
        assert value == {"x": [1]}
        value["x"].append(2)


def test_a_closed_session_has_no_result(connect: Connect, url: str) -> None:
    """Not even one that it knows, in an optimised interpreter too."""
    code = """
import interlock, sys
session = interlock.connect(sys.argv[1])
once = interlock.Once(session, "a")
print(once.run(int), once.run(int))
session.close()
try:
    once.run(int)
except interlock.SessionLost:
    print("lost")
"""
    for flags in ((), ("-O",)):
        done = subprocess.run([sys.executable, *flags, "-c", code, url], capture_output=True, text=True, timeout=30)
        assert done.stdout.split() == ["0", "0", "lost"], done.stderr


# -- death beside the files


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("told", ["before", "after"])
def test_a_worker_killed_before_it_told_anybody_is_replaced(
    connect: Connect, url: str, told: str, takeover: bool
) -> None:
    """Its file is nobody's result, and does not stay; `OwnerDied` names it to those who did not want to go on."""

    def die() -> None:
        session = interlock.connect(url, note="the one that dies")
        written = files(session)
        write = written.write

        def and_die(*args: Any) -> None:
            if told == "after":
                write(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        written.write = and_die
        session.once("a", lambda: "of the dead")

    with collected():
        one, other = connect(), connect()
        assert wait(fork(die)) == -signal.SIGKILL
        assert len(results(url)) == (told == "after")
        if takeover:
            assert one.once("a", lambda: "anew", timeout=30) == "anew"
        else:
            for session in (one, other):
                with pytest.raises(interlock.OwnerDied, match="the one that dies"):
                    session.once("a", pytest.fail, timeout=5, takeover=False)
            assert one.once("a", lambda: "anew", timeout=5, takeover=False, retry=True) == "anew"
        assert other.once("a", pytest.fail) == "anew"
        assert len(results(url)) == 1


def test_a_worker_killed_after_it_told_has_done_its_work(connect: Connect, url: str) -> None:
    """Only its tidying up is left, which the next result does."""

    def die() -> None:
        session = interlock.connect(url)
        files(session).drop = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        session.once("a", lambda: "done", retry=True)

    one = connect()
    with collected():
        with pytest.raises(LookupError):
            one.once("a", fail)
        assert wait(fork(die)) == -signal.SIGKILL
        assert len(results(url)) == 2
        assert one.once("a", pytest.fail, timeout=5, takeover=False) == "done"
        once(one).forget()
        assert results(url) == []


def read_late(url: str, board: Board, number: int) -> None:
    """Wait for a result that is not kept; at the first look at its file say so, and send oneself a signal."""
    session = interlock.connect(url)
    read = files(session).read

    def signalled(filed: str, attempt: int) -> Any:
        if not board[0]:
            board[0] = 1
            os.kill(os.getpid(), number)
        return read(filed, attempt)

    files(session).read = signalled
    assert once(session, keep=False).run(pytest.fail) == 3


def hand_out(session: interlock.Session, url: str, board: Board, number: int) -> int:
    """A child to which a result is owed, and which does not read it, because of a signal; the child's pid."""
    began, go = threading.Event(), threading.Event()
    work = once(session, keep=False).run
    worker = threading.Thread(target=work, args=(lambda: began.set() or go.wait(20),), daemon=True)
    worker.start()
    assert began.wait(20)
    reader = fork(lambda: read_late(url, board, number))
    until(lambda: claims(session) == 2)
    go.set()
    worker.join(20)
    until(lambda: board[0])
    return reader


def test_a_stopped_reader_of_an_owed_result_holds_up_nobody(connect: Connect, url: str) -> None:
    """Others work anew meanwhile, again and again; when it goes on it gets the last of their results."""
    session = connect()
    with collected():
        reader = hand_out(session, url, Board(1), signal.SIGSTOP)
        for number in range(4):
            assert once(session, keep=False, timeout=30).run(lambda number=number: number) == number
            assert len(results(url)) == 1
        os.kill(reader, signal.SIGCONT)
        assert wait(reader) == 0
    assert session.store.read("a") is None
    assert results(url) == []


def test_what_a_dead_reader_was_owed_is_cleared(connect: Connect, url: str) -> None:
    """It holds up nobody either, and clearing takes it away, the files and the object."""
    session = connect()
    with collected():
        assert wait(hand_out(session, url, Board(1), signal.SIGKILL)) == -signal.SIGKILL
    assert once(session, keep=False, timeout=30).run(lambda: "anew") == "anew"
    for step in clearing.plan(session.store):
        clearing.perform(session.store, step)
    assert session.store.read("a") is None
    assert results(url) == []


def test_processes_of_one_fork_share_what_is_done(connect: Connect) -> None:
    """A child computes with the object it was forked with, and the parent reads; the child knows what it knew."""
    session = connect()
    known, new = once(session, "known"), once(session, "new")
    assert known.run(lambda: 1) == known.run(pytest.fail) == 1

    def child() -> None:
        assert known.run(pytest.fail) == 1
        assert new.run(lambda: "of the child") == "of the child"
        known.forget()
        assert known.run(lambda: 2) == 2

    with collected():
        assert wait(fork(child)) == 0
        assert new.run(pytest.fail) == "of the child"
        assert known.run(pytest.fail) == 2


# -- the C types below


def test_thousands_of_objects_leave_nothing(connect: Connect) -> None:
    """Events and onces that know things are collected whole, rings of references too, and nothing is kept for them."""

    class Ring:
        """Something that leads back to an object."""

    session, gone = connect(), []
    session.event("e").set()
    session.once("a", lambda: 1)
    for made, name in ((interlock.Once(session, "a"), "a"), (interlock.Event(session, "e"), "e")):
        kind = type(made)
        region = session.store.region(name, kind.machine)  # type: ignore[attr-defined]
        use = {"a": lambda it: it.run(pytest.fail), "e": lambda it: it.wait(1)}[name]
        use(made)
        gc.collect()
        held = [region, kind, region.recall(region.attempts()[1])][: 3 if name == "a" else 2]
        before = [sys.getrefcount(each) for each in held]
        for _ in range(2000):
            it, ring = kind(session, name), Ring()
            assert use(it)
            assert it._region is region
            it.ring, ring.it = ring, it  # type: ignore[attr-defined]
            gone += [weakref.ref(it), weakref.ref(ring)]
        del it, ring
        gc.collect()
        assert [ref for ref in gone if ref() is not None] == []
        assert [sys.getrefcount(each) for each in held] == before


def test_one_result_is_remembered_at_a_time(connect: Connect) -> None:
    """What a process knows of an object goes when it reads a newer result."""

    class Known:
        """An outcome that can be watched."""

    region, gone = connect().store.region("a", ONCE), []  # type: ignore[attr-defined]
    for attempt in range(1, 100):
        known = Known()
        gone.append(weakref.ref(known))
        region.remember(attempt, known)
        assert region.recall(attempt) is known
        assert region.recall(attempt + 1) is region.recall(attempt - 1) is None
    del known
    gc.collect()
    assert [ref() is not None for ref in gone] == [False] * 98 + [True]
