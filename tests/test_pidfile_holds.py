"""`interlock.pidfile`: lock files of shell scripts held, taken over and cleared, beside those who keep to them."""

from __future__ import annotations

import errno
import logging
import os
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from interlock import pidfile
from interlock.errors import AcquireTimeout, Deadlock, NotHeld
from interlock.files.beside import beside
from interlock.pidfile import PidFile, clear, look
from patience import until
from pidfiles import GONE, HOST, held_by_another_process, put, status
from processes import FORK, finish, kill, run, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where no file is yet."""
    return tmp_path / ".training_lock"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the directory one that other hosts may see."""
    monkeypatch.setattr("interlock.pidfile.verdict.may_be_shared", lambda path: True)


def test_what_is_made_is_what_a_shell_makes(path: Path) -> None:
    """One line with the pid, for `kill -0 $(cat file)`, with the mode that the umask leaves; gone with the release."""
    file = PidFile(path)
    old = os.umask(0o022)
    with file:
        assert path.read_bytes() == b"%d\n" % os.getpid()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert subprocess.run(["bash", "-c", f'kill -0 "$(cat {path})"'], check=False).returncode == 0
        assert file.held
    os.umask(old)
    assert not file.held
    assert os.listdir(path.parent) == [".interlock"]
    with PidFile(path, pid=4121):
        assert path.read_bytes() == b"4121\n"
        assert status(path) == "ACTIVE"


def test_two_exclude_each_other(path: Path) -> None:
    """The second is refused with the path, the holder, the status and the proof; and is let in after the first."""
    with held_by_another_process(path) as process:
        with pytest.raises(
            AcquireTimeout, match=f"{path} not obtained .*: ACTIVE, .*pid {process.pid}.*kernel"
        ) as late:
            PidFile(path).acquire()
        assert [holder.pid for holder in late.value.holders] == [process.pid]
        assert path.read_bytes() == b"%d\n" % process.pid
    with PidFile(path):
        pass


def test_a_thread_does_not_wait_for_itself(path: Path) -> None:
    """A second hold of one thread is refused at once, another thread's too; a release without a hold is an error."""
    with PidFile(path):
        with pytest.raises(Deadlock):
            PidFile(path).acquire(None)
        late: list[BaseException] = []

        def other() -> None:
            with pytest.raises(AcquireTimeout) as error:
                PidFile(path).acquire()
            late.append(error.value)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert late
    with pytest.raises(NotHeld):
        PidFile(path).release()


@pytest.mark.parametrize("kind", ["local", "shared"])
def test_a_killed_holder_is_taken_over(path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    """The guard proves its death on every host, though the file itself names none."""
    if kind == "shared":
        request.getfixturevalue("shared")
    with held_by_another_process(path) as process:
        assert status(path) == "ACTIVE"
        kill(process)
    found = look(path)
    assert found is not None
    assert found.holder is not None
    assert (found.status, found.holder.pid, found.holder.boot_id != "") == ("STALE", process.pid, True)
    with PidFile(path):
        assert path.read_bytes() == b"%d\n" % os.getpid()


@pytest.mark.usefixtures("shared")
def test_a_killed_holder_is_known_for_dead_after_others_had_its_guard(path: Path) -> None:
    """The proof does not hang on the record of the guard, which the next one in the row may have changed and died."""
    with held_by_another_process(path) as process:
        kill(process)
    with beside(str(path)).lock(path.name):
        pass
    assert status(path) == "STALE"
    put(path, f"{process.pid}\n", age=1)
    assert status(path) == "UNKNOWN"  # that is another file, which no guard knows


def test_who_holds_the_guard_holds_the_file(path: Path) -> None:
    """As long as somebody holds the guard, he is the holder, whatever the file says."""
    put(path, str(GONE))
    with beside(str(path)).lock(path.name):
        found = look(path)
    assert found is not None
    assert found.holder is not None
    assert (found.status, found.holder.pid) == ("ACTIVE", os.getpid())
    assert status(path) == "STALE"


def test_whoever_only_looks_after_a_file_costs_nobody_his_turn(path: Path) -> None:
    """A single try does not fail because the guard is taken for a moment, as `clear` takes it."""
    lock = beside(str(path)).lock(path.name)
    asked = threading.Event()

    def moment() -> None:
        with lock:
            asked.set()
            until(lock.waiters)

    thread = threading.Thread(target=moment)
    thread.start()
    asked.wait(60)
    with PidFile(path):
        thread.join(60)


def test_waiting_for_a_shell(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A shell's file is looked at until it goes; meanwhile the log says once who is waited for."""
    put(path, str(os.getpid()))
    waits = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waits.set()

    handler = Told()
    logging.getLogger("interlock").addHandler(handler)
    try:
        with pytest.raises(AcquireTimeout, match="ACTIVE"):
            PidFile(path).acquire(0.01)
        waits.clear()
        remover = threading.Thread(target=lambda: waits.wait(60) and path.unlink())
        remover.start()
        with caplog.at_level(logging.WARNING):
            PidFile(path).acquire(60)
    finally:
        logging.getLogger("interlock").removeHandler(handler)
    remover.join()
    assert path.read_bytes() == b"%d\n" % os.getpid()
    assert f"waiting for {path}: ACTIVE, {HOST} pid {os.getpid()}" in caplog.text


@pytest.mark.parametrize("step", ["write_all", "os.fsync", "sign"])
def test_a_full_disk_is_an_error_and_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever fails after the file was made, it goes again; nobody is told it were held; the next one gets it."""

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with PidFile(path):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(f"interlock.pidfile.file.{step}", full)
        with pytest.raises(OSError, match=r"No space left.*training_lock") as error:
            PidFile(path).acquire()
    assert not isinstance(error.value, AcquireTimeout)
    assert not path.exists()
    with PidFile(path):
        pass


def test_errors_that_are_no_holder(path: Path) -> None:
    """A directory that is missing is an error of its own."""
    with pytest.raises(OSError, match="missing") as error:
        PidFile(path.parent / "missing" / "file").acquire()
    assert not isinstance(error.value, AcquireTimeout)


def test_a_release_removes_no_other_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If somebody has replaced the file, it stays, even one of the same content; and the log tells."""
    with PidFile(path):
        path.unlink()
        put(path, f"{os.getpid()}\n", age=10)
    assert path.exists()
    assert "removed or replaced" in caplog.text


def test_a_forked_child_holds_nothing(path: Path) -> None:
    """The child of a holder can neither release the file nor take it along when it ends."""
    file = PidFile(path)

    def child() -> None:
        assert not file.held
        with pytest.raises(NotHeld):
            file.release()
        pidfile.file._withdraw_all()

    with file:
        run(child)
        assert path.read_bytes() == b"%d\n" % os.getpid()


@pytest.mark.parametrize("end", ["pass", "1 / 0", "import os; os._exit(0)"])
def test_a_process_that_ends_in_order_leaves_no_file(path: Path, end: str) -> None:
    """Its own forgotten file would keep out shells for ever; only after a sudden end it stays."""
    program = f"from interlock.pidfile import PidFile; PidFile({str(path)!r}).acquire(); {end}"
    subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    assert path.exists() == ("_exit" in end)
    assert status(path) == ("STALE" if "_exit" in end else None)


# -- clearing


def test_what_is_cleared(path: Path) -> None:
    """What is STALE; by force also what is UNKNOWN; never what is ACTIVE."""
    assert clear(path) is None
    removed = clear(put(path, str(GONE)))
    assert removed is not None
    assert (removed.status, path.exists()) == ("STALE", False)
    put(path, f"{GONE} node7")
    assert clear(path) is None
    assert path.exists()
    forced = clear(path, force=True)
    assert forced is not None
    assert (forced.status, path.exists()) == ("UNKNOWN", False)
    put(path, str(os.getpid()))
    assert clear(path, force=True) is None
    with held_by_another_process(path.with_name("held")):
        assert clear(path.with_name("held"), force=True) is None
        assert path.with_name("held").exists()


def test_a_file_that_was_made_anew_is_not_cleared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the judgement and the removal a person may act: another file stays, even with the same content."""
    really_judge = pidfile.sweep.judge

    def judge(*args: Any) -> Any:
        found = really_judge(*args)
        path.unlink()
        put(path, str(GONE), age=5)
        return found

    monkeypatch.setattr("interlock.pidfile.sweep.judge", judge)
    assert clear(put(path, str(GONE))) is None
    assert path.exists()


@pytest.mark.parametrize("where", ["sweep", "file"])
def test_a_file_is_removed_under_its_guard(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Who clears it or takes it over holds the guard then, so that two of them never follow each other's verdict."""
    really_remove, guarded = pidfile.file.remove, []

    def remove(*args: Any) -> bool:
        guarded.append(beside(str(path)).lock(path.name).locked())
        return really_remove(*args)

    monkeypatch.setattr(f"interlock.pidfile.{where}.remove", remove)
    put(path, str(GONE))
    if where == "sweep":
        assert clear(path) is not None
    else:
        with PidFile(path):
            pass
    assert guarded
    assert all(guarded)


# -- the race

CLEARS = 1000
CLEARED = 10  # of these so many found something to remove, at least
ACQUIRERS = 8


def train(path: Path, died: bool) -> None:
    """Be inside, which nobody else may be at that time; then leave, or die."""
    os.close(os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL))
    time.sleep(random.random() / 1000)
    path.with_name("inside").unlink()
    if died:
        os._exit(0)


def as_shell(path: Path, died: bool) -> bool:
    """What a script does: ``noclobber``, then the pid in an instant of its own, then ``rm``."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    os.write(fd, b"%d\n" % os.getpid())
    os.close(fd)
    train(path, died)
    path.unlink()
    return True


def as_we(path: Path, died: bool) -> bool:
    """What `PidFile` does."""
    try:
        with PidFile(path):
            train(path, died)
    except AcquireTimeout:
        return False
    return True


def test_clears_beside_acquirers(path: Path) -> None:
    """A thousand clears beside scripts and programs of which every third one dies inside: never are there two."""
    entered, over = FORK.Array("i", ACQUIRERS), FORK.Event()

    def come(number: int) -> None:
        while not over.is_set():
            pid = os.fork()
            if not pid:
                random.seed()
                code = 3
                try:
                    code = int(not (as_shell if number % 4 else as_we)(path, random.random() < 0.3))
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code in (0, 1), "two were inside"
            entered[number] += code == 0

    parties = [start(come, number) for number in range(ACQUIRERS)]
    calls = cleared = 0
    while calls < CLEARS or cleared < CLEARED or not all(entered):
        calls += 1
        cleared += clear(path) is not None
    over.set()
    finish(*parties)
