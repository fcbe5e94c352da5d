"""`interlock.compat.prove`: what its users rely on, and what must not happen to them any more."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.compat import prove
from interlock.compat.prove import Locked, TrainingLock, preflight_check
from interlock.errors import AcquireTimeout, Unavailable
from pidfiles import GONE, HOST, put, running
from processes import FORK, as_root, become_nobody, kill, open_directory, run, start

WHICH = ("baseline", "IDD-AW", "deeplabv3plus_r50")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that AWARE_DATA_ROOT names."""
    monkeypatch.setenv("AWARE_DATA_ROOT", str(tmp_path))
    return tmp_path


def shell_file(root: Path, folder: str = "baseline/idd-aw_cd/deeplabv3plus_r50") -> Path:
    """The path of a script's lock file; its folder exists."""
    path = root / "WEIGHTS" / folder / ".training_lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def held_by_another_process(*which: Any, **options: Any) -> Iterator[Any]:
    """The process that trains meanwhile, unless it is killed before."""
    mine, theirs = FORK.Pipe()

    def train() -> None:
        with TrainingLock(*which, **options):
            theirs.send("held")
            theirs.recv()

    process = start(train)
    assert mine.poll(60)
    yield process
    if process.is_alive():
        kill(process)


# -- the lock


def test_the_way_of_the_document(root: Path) -> None:
    """`acquire` and `release`, `with`, and both locks standing meanwhile; afterwards nothing is held."""
    lock = TrainingLock(*WHICH)
    assert lock.acquire()
    assert lock.acquire()  # what one has one has
    assert lock.lock_file == str(shell_file(root))
    assert Path(lock.lock_file).read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    assert not os.path.exists(lock.lock_file)
    with TrainingLock(*WHICH) as held:
        assert os.path.exists(held.lock_file or "")
        assert interlock.connect(root / "training_locks").lock(held.name).locked()
    assert prove.list_all_locks() == []


def test_two_exclude_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """The second is told False, and by whom; with `with` it is told by an error that is a RuntimeError."""
    lock = TrainingLock(*WHICH)
    with held_by_another_process(*WHICH) as process:
        assert lock.acquire() is False
        assert f"pid {process.pid}" in lock.reason
        assert lock.reason in caplog.text
        assert lock.acquire(blocking=True, timeout=0.05) is False
        with pytest.raises(RuntimeError, match=f"held by .*pid {process.pid}") as error, lock:
            pass
        assert isinstance(error.value, Locked)
        assert isinstance(error.value, AcquireTimeout)
        assert [holder.pid for holder in error.value.holders] == [process.pid]
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert lock.acquire(blocking=True)
    lock.release()


@pytest.mark.parametrize("timeout", [60, None])
def test_waiting_ends_with_the_holder(timeout: float | None) -> None:
    """With `blocking` the next one trains as soon as the first has died; None waits as long as it takes."""
    lock = TrainingLock(*WHICH)
    with held_by_another_process(*WHICH) as process:
        timer = threading.Timer(0.05, kill, [process])
        timer.start()
        assert lock.acquire(blocking=True, timeout=timeout)
        lock.release()
        timer.join()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a", "IDD-AW", "m"), ("a", "idd-aw", "m"), True),
        (("a", "d", "m", 0.5), ("a", "d", "m", 0.50), True),
        (("a", "d", "m", 1), ("a", "d", "m", 1.0), True),
        (("a", "d", "m", 0.5), ("a", "d", "m"), False),
        (("a", "d", "m", 0.121), ("a", "d", "m", 0.124), False),
        (("a", "d", "m", 0.12), ("a", "d", "m", 0.121), False),
        (("a", "d", "m", 0.121), ("a", "d", "m", 0.12), False),
        (("a", "d_m", "x"), ("a", "d", "m_x"), False),
    ],
)
@pytest.mark.parametrize("folders", [True, False])
def test_which_configurations_are_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, one: Any, other: Any, same: bool, folders: bool
) -> None:
    """No two are taken for one, and none for two; with folders of weights and without."""
    if not folders:
        monkeypatch.delenv("AWARE_DATA_ROOT")
    with TrainingLock(*one, lock_dir=root / "locks"):
        second = TrainingLock(*other, lock_dir=root / "locks")
        assert second.acquire() is not same
        second.release()


@pytest.mark.parametrize(
    ("ratio", "folder"),
    [(None, "m"), (0.5, "m_ratio0p50"), (0.12, "m_ratio0p12"), (0.121, "m_ratio0p121"), (1, "m_ratio1p00")],
)
def test_the_folder_of_a_ratio(root: Path, ratio: float | None, folder: str) -> None:
    """Scripts find the file where they look for it: with two digits, where these are the ratio."""
    assert TrainingLock("a", "D", "m", ratio).lock_file == f"{root}/WEIGHTS/a/d_cd/{folder}/.training_lock"


def test_a_status_takes_nothing_and_counts_no_own_hold() -> None:
    """`is_locked` is about other processes; it and `get_lock_holder` leave the lock as it is."""
    lock, same = TrainingLock(*WHICH), TrainingLock(*WHICH)
    assert (lock.is_locked(), lock.get_lock_holder()) == (False, None)
    with lock:
        assert not lock.is_locked()
        assert not same.is_locked()
        assert preflight_check(*WHICH)
        holder = same.get_lock_holder()
    assert holder is not None
    assert (holder["pid"], holder["hostname"], holder["strategy"]) == (os.getpid(), HOST, "baseline")
    with held_by_another_process(*WHICH) as process:
        assert lock.is_locked()
        assert (lock.get_lock_holder() or {})["pid"] == process.pid
        kill(process)
        assert not lock.is_locked()
        assert lock.get_lock_holder() is None
        assert lock.acquire()
        lock.release()


def test_a_contender_leaves_the_record_of_the_holder() -> None:
    """However many have tried, the holder is still known."""
    with held_by_another_process(*WHICH) as process:
        for _ in range(3):
            assert not TrainingLock(*WHICH).acquire()
        assert [lock["pid"] for lock in prove.list_active_locks()] == [process.pid]


def test_a_forked_child_holds_nothing(root: Path) -> None:
    """The workers of a training neither keep its lock nor give it up."""

    def worker(lock: TrainingLock) -> None:
        assert lock.is_locked()
        lock.release()
        assert not lock.acquire()

    with TrainingLock(*WHICH) as lock:
        run(worker, lock)
        assert shell_file(root).read_text() == f"{os.getpid()}\n"


def test_it_may_be_released_by_another_thread() -> None:
    """The lock is the process's."""
    lock = TrainingLock(*WHICH)
    assert lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with TrainingLock(*WHICH):
        pass


# -- the other kind of lock


def test_a_script_that_trains_keeps_us_out(root: Path) -> None:
    """A live lock file refuses the Python lock, which names it, says who has it, and gives its own lock back."""
    lock = TrainingLock(*WHICH)
    with running() as process:
        path = put(shell_file(root), str(process.pid))
        assert lock.acquire() is False
        assert lock.reason.startswith(f"{path} not obtained")
        assert f"ACTIVE, {HOST} pid {process.pid}" in lock.reason
        assert lock.is_locked()
        holder = lock.get_lock_holder()
        assert holder is not None
        assert (holder["pid"], holder["lock_file"], holder["status"]) == (process.pid, str(path), "ACTIVE")
        with pytest.raises(RuntimeError, match=r"\.training_lock"), lock:
            pass
        assert prove.list_active_locks() == []
    assert not lock.is_locked()
    with lock:
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_script_on_another_host_keeps_us_out(root: Path) -> None:
    """What cannot be judged from here counts as a training."""
    put(shell_file(root), f"{GONE} node7", age=1e6)
    lock = TrainingLock(*WHICH)
    assert lock.acquire() is False
    assert "UNKNOWN, node7 pid" in lock.reason
    assert lock.is_locked()


def test_a_script_that_rounds_the_ratio_keeps_us_out(root: Path) -> None:
    """Its file lies in the folder of the rounded ratio, and may be meant for this one; a dead one is not."""
    path = put(shell_file(root, "a/d_cd/m_ratio0p12"), str(os.getpid()))
    lock = TrainingLock("a", "d", "m", 0.121)
    assert lock.acquire() is False
    assert f"{path}, which is that of the rounded ratio, is ACTIVE" in lock.reason
    assert (lock.get_lock_holder() or {})["lock_file"] == str(path)
    put(path, str(GONE))
    assert lock.acquire()
    lock.release()
    assert path.exists()


# -- errors


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    """No directory is called like a variable; without one the lock alone is taken, where its directory is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWARE_DATA_ROOT") if value is None else monkeypatch.setenv("AWARE_DATA_ROOT", value)
    for use in (lambda: TrainingLock(*WHICH), prove.list_all_locks, prove.clear_stale_locks):
        with pytest.raises(Unavailable, match="AWARE_DATA_ROOT is not set"):
            use()
    with TrainingLock(*WHICH, lock_dir="locks") as lock:
        assert lock.lock_file is None
    assert os.listdir(tmp_path) == ["locks"]
    monkeypatch.setenv("MINE", str(tmp_path))
    for text in ("$MINE/locks", "${MINE}/locks", "~/locks"):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert TrainingLock(*WHICH, lock_dir=text).is_locked() is False
        assert prove.training.expanded(text) == f"{tmp_path}/locks"


@as_root
def test_a_missing_right_is_an_error() -> None:
    """Where the lock or the folder may not be written, nobody is told that another trains."""

    def child(folder: Path) -> None:
        become_nobody()
        for lock_dir in (folder / "locked", folder / "open"):
            lock = TrainingLock(*WHICH, lock_dir=lock_dir, weights_dir=folder / "locked")
            with pytest.raises(OSError, match="ermission denied") as error:
                lock.acquire()
            assert not isinstance(error.value, TimeoutError)
            assert not lock.is_locked()

    with open_directory() as folder:
        (folder / "locked").mkdir(mode=0o755)
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        run(child, folder)


def test_a_full_disk_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, nothing is left behind, and the lock is free again."""

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = TrainingLock(*WHICH)
    with monkeypatch.context() as patch:
        patch.setattr("interlock.pidfile.file.write_all", full)
        with pytest.raises(OSError, match="No space left"):
            lock.acquire()
    assert not shell_file(root).exists()
    assert prove.list_active_locks() == []
    with TrainingLock(*WHICH):
        pass


def test_a_damaged_record_is_an_error(root: Path) -> None:
    """A lock that cannot be read is neither free nor locked."""
    with TrainingLock(*WHICH) as lock:
        pass
    (record,) = (root / "training_locks" / "records").iterdir()
    record.write_bytes(b"garbage")
    for use in (lock.acquire, lock.is_locked, lock.get_lock_holder):
        with pytest.raises(interlock.RecordInvalid):
            use()


def test_is_pid_running() -> None:
    """Of this host; and numbers that mean every process mean none here."""
    with running() as process:
        assert prove.is_pid_running(process.pid)
    assert not any(map(prove.is_pid_running, (process.pid, GONE, 0, -1)))


# -- lists


def test_lists(root: Path) -> None:
    """Both kinds, each with its configuration, its holder and its status; a look changes nothing of them."""
    put(shell_file(root, "gen/d_cd/m_ratio0p50"), f"{GONE} node7")
    put(shell_file(root, "gen/d_cd/gone"), str(GONE))
    with held_by_another_process("gen", "D", 'it\'s, "m"', 0.25) as process:
        (held,) = prove.list_active_locks()
        assert (held["strategy"], held["dataset"], held["model"], held["ratio"]) == ("gen", "d", 'it\'s, "m"', 0.25)
        assert (held["pid"], held["hostname"], held["status"]) == (process.pid, HOST, "ACTIVE")
        files = prove.list_weights_dir_locks()
        assert [(lock["strategy"], lock["dataset"], lock["model"], lock["status"]) for lock in files] == [
            ("gen", "d", "gone", "STALE"),
            ("gen", "d", 'it\'s, "m"_ratio0p25', "ACTIVE"),
            ("gen", "d", "m_ratio0p50", "UNKNOWN"),
        ]
        assert [(lock["type"], lock["pid"]) for lock in prove.list_all_locks()] == [
            ("file", GONE), ("file", process.pid), ("file", GONE), ("fcntl", process.pid),
        ]  # fmt: skip
        kill(process)
        assert prove.list_active_locks() == []
        assert [lock["status"] for lock in prove.list_all_locks() if lock["type"] == "fcntl"] == ["STALE"]


def test_lists_without_verification(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, so nothing is claimed: what the files say, and that nobody has looked."""
    put(shell_file(root), str(GONE))
    put(shell_file(root, "a/b_cd/c"), "?")
    monkeypatch.delattr("interlock.pidfile.look")
    found = prove.list_weights_dir_locks(verify_pid=False)
    assert [(lock["pid"], lock["status"], lock["proof"]) for lock in found] == [
        (None, "UNKNOWN", "not verified"),
        (GONE, "UNKNOWN", "not verified"),
    ]


def test_other_locks_of_the_directory_are_listed(root: Path) -> None:
    """A lock that is no configuration is told by its name."""
    with interlock.connect(root / "training_locks").lock("ratio=x,model"):
        assert [lock["strategy"] for lock in prove.list_active_locks()] == ["ratio=x,model"]


# -- clearing


def test_clearing(root: Path) -> None:
    """Dry unless asked; of both kinds the dead; by force the unknown, which is written down; never who trains."""
    gone, away = put(shell_file(root), str(GONE)), put(shell_file(root, "a/b_cd/c"), f"{GONE} node7")
    with held_by_another_process("x", "d", "m") as process:
        kill(process)
    left = str(shell_file(root, "x/d_cd/m"))
    with held_by_another_process("y", "d", "m"):
        assert prove.clear_stale_file_locks() == [str(gone), left]
        assert prove.clear_stale_locks() == ["dataset=d,model=m,strategy=x"]
        assert len(prove.list_all_locks()) == 6
        assert prove.clear_stale_file_locks(dry_run=False) == [str(gone), left]
        assert prove.clear_stale_locks(dry_run=False) == ["dataset=d,model=m,strategy=x"]
        assert away.exists()
        assert not (root / "training_locks" / "audit.log").exists()
        assert prove.clear_stale_file_locks(dry_run=False, force=True, reason="node7 burnt") == [str(away)]
        assert prove.clear_stale_locks(dry_run=False, force=True) == []
        assert [lock["strategy"] for lock in prove.list_all_locks()] == ["y", "y"]
    (line,) = (root / "training_locks" / "audit.log").read_text().splitlines()
    assert "node7 burnt" in line
    assert str(away) in line


def test_a_clear_goes_on_where_one_file_cannot_go(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that may not be written keeps nobody from the others, and the log tells which it was."""
    first, second = put(shell_file(root, "a/d_cd/m"), str(GONE)), put(shell_file(root, "b/d_cd/m"), str(GONE))
    really_clear = interlock.pidfile.clear

    def clear(path: str, **options: Any) -> Any:
        if path == str(first):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return really_clear(path, **options)

    monkeypatch.setattr("interlock.pidfile.clear", clear)
    with caplog.at_level(logging.ERROR):
        assert prove.clear_stale_file_locks(dry_run=False) == [str(second)]
    assert f"{first} stays" in caplog.text
