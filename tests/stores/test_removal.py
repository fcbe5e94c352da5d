"""Records that go away: retired, removed by a cleaner, set aside as damaged; and descriptors that must not stay."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import interlock
from crash.processes import Board, collected, fork, kill, wait
from interlock.abc import Leave, Ticket
from interlock.machines.admission import LOCK, Acquire
from interlock.stores._kernel_lock import PRIMITIVES
from interlock.stores._locked import CHECK_S
from interlock.stores._shelf import LEAP, RETIRED
from interlock.stores._space import file_name
from patience import until


def record(tmp_path: Path, name: str = "name") -> Path:
    return tmp_path / "space" / "records" / file_name(name)


def elsewhere(work: object) -> int:
    """The exit code of `work` run in another process."""
    with collected():
        return wait(fork(work))  # type: ignore[arg-type]


@pytest.mark.parametrize("deaths", [False, True])
def test_takers_race_with_a_remover(file_url: str, deaths: bool) -> None:
    """Four processes take a lock that a fifth removes whenever it is idle, or is killed at: one holder, tokens grow."""
    board, rounds, enough = Board(16), 200, 4 if deaths else 20
    inside, tokens, removed, done, taken = 0, 1, 2, 3, range(4, 8)

    def take(slot: int) -> None:
        chance = random.Random(os.getpid())
        with interlock.connect(file_url) as session:
            while board[slot] < rounds or board[removed] < enough:
                with session.lock("name", timeout=30) as grant:
                    board[inside] += 1
                    assert board[inside] == 1, "two holders"
                    assert grant.token > board[tokens], "a token went back"
                    board[tokens] = grant.token
                    board[inside] -= 1
                board[slot] += 1
                time.sleep(chance.uniform(0, 0.002))
            board[done] += 1

    def remove() -> None:
        store = interlock.connect(file_url).store
        while True:
            board[removed] += store.retire("name", LOCK)

    with collected():
        takers = [fork(lambda slot=slot: take(slot)) for slot in taken]
        remover = fork(remove)
        while deaths and board[done] < 4 and board[inside] < 2:
            before = board[removed]
            until(lambda seen=before: board[removed] > seen or board[done] == 4 or board[inside] > 1)
            time.sleep(random.uniform(0, 0.01))
            kill(remover)
            remover = fork(remove)
        assert [wait(pid, 60) for pid in takers] == [0] * 4
        kill(remover)
    assert board[tokens] == sum(board[slot] for slot in taken)


def test_death_between_the_mark_and_the_removal(file_url: str, tmp_path: Path) -> None:
    """A record that was marked as removed and still lies there is buried by the next comer; its tokens go on."""

    def die_before_the_unlink() -> None:
        unlink = os.unlink

        def die(name: str, **options: int) -> None:
            if not name.startswith("."):
                os.kill(os.getpid(), signal.SIGKILL)
            unlink(name, **options)

        session = interlock.connect(file_url)
        os.unlink = die  # type: ignore[assignment]
        session.store.retire("name", LOCK)

    with interlock.connect(file_url) as session:
        for _ in range(7):
            session.lock("name").acquire().release()
        assert elsewhere(die_before_the_unlink) == -signal.SIGKILL
        assert RETIRED in record(tmp_path).read_bytes()
        assert session.store.read("name") is None
        assert [found for found in session.store.records() if not isinstance(found, Exception)] == []
        with session.lock("name", timeout=30) as grant:
            assert grant.token == 8
        assert session.store.read("name") is not None


def test_only_idle_records_are_removed(file_url: str) -> None:
    """A record that says anything stays: a holder, a flag, a death that nobody was told of."""
    with interlock.connect(file_url) as session:
        store = session.store
        session.event("flag").set()
        assert not store.retire("flag", interlock.Event.machine)
        with session.lock("name"):
            assert not store.retire("name", LOCK)
        assert not store.retire("unused", LOCK)
        assert store.retire("name", LOCK)
        assert session.lock("name").acquire().token == 2


def test_a_holder_learns_that_its_record_was_removed(file_url: str, tmp_path: Path) -> None:
    """A cleaner removes a held record and a newcomer takes the lock: the first holder's release says so."""
    with interlock.connect(file_url) as session, interlock.connect(file_url) as other:
        mine = session.lock("name").acquire()
        record(tmp_path).unlink()
        time.sleep(CHECK_S * 1.5)
        theirs = other.lock("name").acquire(timeout=30)
        with pytest.raises(interlock.SessionLost):
            mine.release()
        assert other.lock("name").locked()
        theirs.release()


def test_removing_a_name_spares_the_newcomers_record(file_url: str, tmp_path: Path) -> None:
    """`retire` by a process whose own record file a cleaner removed does not remove the one that lies there now."""
    with interlock.connect(file_url) as session:
        session.lock("name").acquire().release()
        record(tmp_path).unlink()
        board = Board(2)

        def hold() -> None:
            interlock.connect(file_url).lock("name").acquire(timeout=30)
            board[0] = 1
            time.sleep(30)

        with collected():
            holder = fork(hold)
            until(lambda: board[0])
            assert not session.store.retire("name", LOCK)
            assert record(tmp_path).exists()
            time.sleep(CHECK_S * 1.5)
            assert session.lock("name").try_acquire() is None
            kill(holder)
            assert session.lock("name").acquire(timeout=30).recovered


def test_a_removed_space_is_made_anew(file_url: str, tmp_path: Path) -> None:
    """When the whole space is removed under its users, what they held is lost, as they are told, and work goes on."""
    session, other, board = interlock.connect(file_url), interlock.connect(file_url), Board(2)

    def neighbour() -> None:
        mine = interlock.connect(file_url)
        mine.lock("theirs").acquire()
        board[0] = 1
        until(lambda: board[1])
        assert mine.lock("name").try_acquire() is None, "it does not see the others any more"
        mine.lock("new").acquire().release()

    with collected():
        pid = fork(neighbour)
        until(lambda: board[0])
        grant = session.lock("name").acquire()
        shutil.rmtree(tmp_path / "space")
        time.sleep(CHECK_S * 1.5)
        with pytest.raises(interlock.SessionLost):
            grant.release()
        with session.lock("name", timeout=30):
            assert other.lock("name").try_acquire() is None
            assert not session.lost
            board[1] = 1
            assert wait(pid) == 0
        assert other.once("once", lambda: 1, timeout=30) == 1
    session.close()
    other.close()


def test_a_space_that_cannot_be_made_anew_is_an_error(file_url: str, tmp_path: Path) -> None:
    """When the space is removed and something else takes its place, each use is a typed error, soon, that names it."""
    session = interlock.connect(file_url)
    grant = session.lock("name").acquire()
    shutil.rmtree(tmp_path / "space")
    (tmp_path / "space").write_text("precious")
    time.sleep(CHECK_S * 1.5)
    started = time.monotonic()
    for use in (
        grant.release,
        lambda: session.lock("new").acquire(timeout=0.2),
        lambda: session.once("once", lambda: 1, timeout=0.2),
        lambda: session.store.audit("line"),
    ):
        with pytest.raises((interlock.Unavailable, interlock.AcquireTimeout)) as caught:
            use()
        assert "space" in str(caught.value)
    assert time.monotonic() - started < 5
    assert (tmp_path / "space").read_text() == "precious"


def test_setting_a_damaged_record_aside(file_url: str, tmp_path: Path) -> None:
    """A damaged record is kept under another name, and the new one starts far above the tokens that were lost."""
    with interlock.connect(file_url) as session:
        for _ in range(3):
            session.lock("name").acquire().release()
        assert session.store.discard("name") is None
        damaged = b"interlock 1 " + os.urandom(50)
        record(tmp_path).write_bytes(damaged)
        aside = session.store.discard("name")
        assert aside is not None
        assert Path(aside).read_bytes()[: len(damaged)] == damaged
        with session.lock("name", timeout=30) as grant:
            assert grant.token > LEAP
        assert session.store.discard("name") is None


def test_nobody_goes_on_with_a_record_that_was_set_aside(file_url: str, tmp_path: Path) -> None:
    """Whoever has the damaged record open, and knows an undamaged state of it, joins the others at the new one."""
    with interlock.connect(file_url) as session:
        session.lock("name").acquire().release()
        path, board = record(tmp_path), Board(2)
        damaged = path.read_bytes().replace(b"token", b"TOKEN")
        with path.open("r+b") as same_file:
            same_file.write(damaged)

        def set_aside_and_hold() -> None:
            other = interlock.connect(file_url)
            assert other.store.discard("name") is not None
            other.lock("name").acquire(timeout=30)
            board[0] = 1
            time.sleep(30)

        with collected():
            fork(set_aside_and_hold)
            until(lambda: board[0])
            assert session.lock("name").try_acquire() is None, "two holders"


@pytest.mark.parametrize("content", [b"", b"rubbish", b"interlock 1 v=1\n"])
def test_a_damaged_floor_is_named(file_url: str, tmp_path: Path, content: bytes) -> None:
    """If the tokens of removed records cannot be read, new names are refused, by the floor's path; old names go on."""
    with interlock.connect(file_url) as session:
        for name in ("old", "gone"):
            session.lock(name).acquire().release()
        session.store.retire("gone", LOCK)
        floor = tmp_path / "space" / "floor"
        floor.write_bytes(content)
        with pytest.raises(interlock.RecordInvalid) as caught:
            session.lock("gone").acquire(timeout=1)
        assert str(floor) in str(caught.value)
        session.lock("old").acquire(timeout=1).release()
        assert floor.read_bytes() == content


def test_a_fork_amid_a_transaction_harms_neither_side(file_url: str) -> None:
    """Children forked while a thread is in the middle of transactions work at once, and hold none of its locks open."""
    session, stop = interlock.connect(file_url), threading.Event()

    def churn() -> None:
        while not stop.is_set():
            session.lock("busy").acquire().release()

    def child() -> None:
        mine = interlock.connect(file_url)
        mine.lock("busy").acquire(timeout=20).release()
        mine.lock("other").acquire(timeout=20).release()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        with collected():
            for _ in range(60):
                assert wait(fork(child)) == 0
    finally:
        stop.set()
        thread.join()
    session.lock("busy").acquire(timeout=30).release()


def test_a_living_child_does_not_keep_a_dead_parents_lock(file_url: str) -> None:
    """After a holder is killed its forked child lives on, and the lock is free with `recovered`."""
    board = Board(4)

    def parent() -> None:
        session = interlock.connect(file_url)
        session.lock("name").acquire()
        board[0] = fork(lambda: time.sleep(20), outlives=True)
        time.sleep(20)

    with interlock.connect(file_url) as session, collected():
        holder = fork(parent)
        until(lambda: board[0])
        assert session.lock("name").try_acquire() is None
        kill(holder)
        grant = session.lock("name").acquire(timeout=30)
        assert grant.recovered
        os.kill(board[0], signal.SIGKILL)


def test_a_child_forked_while_a_session_begins_does_not_keep_it_alive(file_url: str) -> None:
    """A session's death is seen although a child lives that was forked in the session's first moments."""
    board = Board(4)

    def parent() -> None:
        rename = os.rename

        def fork_amid(*args: str, **options: int) -> None:
            if not board[0]:
                board[0] = fork(lambda: time.sleep(20), outlives=True)
            rename(*args, **options)

        os.rename = fork_amid
        interlock.connect(file_url).lock("name").acquire()
        board[1] = 1
        time.sleep(20)

    with interlock.connect(file_url) as session, collected():
        session.lock("other").acquire()
        holder = fork(parent)
        until(lambda: board[1])
        kill(holder)
        try:
            assert session.lock("name").acquire(timeout=30).recovered
        finally:
            os.kill(board[0], signal.SIGKILL)


def test_a_stopped_creator_holds_up_nobody_beyond_their_time_out(file_url: str) -> None:
    """While a stopped process has the space's own lock, threads that wait with and without a time-out keep theirs."""
    session, board = interlock.connect(file_url), Board(1)
    session.lock("old").acquire().release()

    def stop_amid() -> None:
        with session.store._opened().locked():  # type: ignore[attr-defined]
            board[0] = 1
            time.sleep(20)

    def wait_for_ever() -> None:
        session.lock("new").acquire().release()

    with collected():
        creator = fork(stop_amid)
        until(lambda: board[0])
        patient = threading.Thread(target=wait_for_ever)
        patient.start()
        time.sleep(0.05)
        started = time.monotonic()
        with pytest.raises(interlock.AcquireTimeout):
            session.lock("newer").acquire(timeout=0.2)
        session.store._records._files.clear()  # type: ignore[attr-defined]
        session.lock("old").acquire(timeout=30).release()
        assert time.monotonic() - started < 5
        kill(creator)
        patient.join(20)
        assert not patient.is_alive()


def test_a_remover_does_not_wait_for_itself(file_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleaner that takes the record away in the middle of `retire` does not make it wait for its own lock."""
    with interlock.connect(file_url) as session:
        session.lock("name").acquire().release()
        session.store._records._files.clear()  # type: ignore[attr-defined]
        read = type(session.store).read

        def read_and_clean(store: object, name: str) -> object:
            found = read(store, name)  # type: ignore[arg-type]
            record(tmp_path).unlink()
            return found

        monkeypatch.setattr(type(session.store), "read", read_and_clean)
        session.store.retire("name", LOCK)
        with session.lock("name", timeout=30):
            pass


@pytest.mark.parametrize("primitive", sorted(PRIMITIVES))
def test_looking_does_not_let_others_into_a_transaction(file_url: str, primitive: str) -> None:
    """While one thread changes a record another thread looks at it: no change of this or another process is lost."""
    url, rounds = f"{file_url}?primitive={primitive}", 400

    def churn(serials: int) -> None:
        session = interlock.connect(url)
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                session.store.read("crowd")

        thread = threading.Thread(target=look)
        thread.start()
        for serial in range(rounds):
            ticket = Ticket(session.id, serials + serial)
            session.store.transact("crowd", LOCK, Acquire(ticket))
            assert session.store.transact("crowd", LOCK, Leave(ticket)).state == "left", "a change was lost"
        stop.set()
        thread.join()

    with collected():
        for pid in [fork(lambda: churn(0)), fork(lambda: churn(0))]:
            assert wait(pid) == 0
    stored = interlock.connect(url).store.read("crowd")
    assert stored is not None
    assert stored.version == 1 + 2 * 2 * rounds


def test_a_removed_space_does_not_keep_a_child_from_starting_afresh(tmp_path: Path) -> None:
    """After a fork every store of the child owns nothing, also where the directory of another one is gone."""
    gone = interlock.connect(f"file://{tmp_path}/gone")
    gone.lock("a").acquire().release()
    shutil.rmtree(tmp_path / "gone")
    with interlock.connect(f"file://{tmp_path}/space") as session, collected():
        session.lock("a").acquire().release()
        inherited = {os.path.realpath(f"/proc/self/fd/{file.fd}") for file in session.store._records._files.values()}

        def holds_none_open() -> None:
            open_now = {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
            assert inherited
            assert not inherited & open_now

        assert wait(fork(holds_none_open)) == 0
