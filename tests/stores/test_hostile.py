"""Directories that cannot be used, disks that are full, and files planted where ours should be."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock
from crash.processes import collected, fork, wait
from interlock.abc import Leave, Ticket
from interlock.machines.admission import LOCK, Acquire
from interlock.stores import file
from interlock.stores.file import FileStore

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems and becomes another user")
NOBODY = 65534


def stranger(work: Callable[[], object]) -> None:
    """Run `work` in a process that has not opened any space yet."""

    def afresh() -> None:
        file._stores.clear()
        work()

    with collected():
        assert wait(fork(afresh), 10) == 0


def lock_once(path: Path) -> None:
    with interlock.connect(f"file://{path}") as session, session.lock("name"):
        pass


def refused(path: Path, *words: str) -> interlock.Unavailable:
    """Taking a lock there is `Unavailable` at once, and the message names the path and the reason."""
    started = time.monotonic()
    session = interlock.connect(f"file://{path}")
    with pytest.raises(interlock.Unavailable) as caught:
        session.lock("name").acquire()
    assert time.monotonic() - started < 5
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.definite
    session.close()
    return caught.value


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    """A file at the path, or on the way to it, is named and left alone."""
    victim = tmp_path / "space"
    victim.write_text("precious")
    refused(victim, "a file is where the directory should be")
    refused(victim / "deeper")
    assert victim.read_text() == "precious"


@root
def test_a_directory_without_permission(tmp_path: Path) -> None:
    """A user who may not write there is told so by path, before and after the space exists, and nothing is made."""
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    (tmp_path / "empty").mkdir(mode=0o755)
    lock_once(tmp_path / "used")

    def as_nobody() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        refused(tmp_path / "empty", "permission denied", "INTERLOCK_URL")
        refused(tmp_path / "missing", "permission denied")
        refused(tmp_path / "used", "permission denied")

    stranger(as_nobody)
    assert sorted(os.listdir(tmp_path)) == ["empty", "used"]
    assert os.listdir(tmp_path / "empty") == []


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system of its own; unmounted afterwards."""
    path = tmp_path / "mount"
    path.mkdir()

    def mounted(*options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
        return path

    yield mounted
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


@root
def test_a_read_only_file_system(mount: Callable[..., Path]) -> None:
    """A read-only mount is refused, with and without a space on it; what is on it can still be looked at."""
    path = mount("size=1m")
    stranger(lambda: lock_once(path / "used"))
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True, capture_output=True)
    assert refused(path / "new", "read-only").errno == errno.EROFS  # type: ignore[attr-defined]
    refused(path / "used", "read-only")
    assert not interlock.connect(f"file://{path}/used").lock("name").locked()
    assert os.listdir(path) == ["used"]


def fill(path: Path) -> int:
    """Use up the disk to the last byte; the size of the file that does it."""
    fd, size = os.open(path / "ballast", os.O_WRONLY | os.O_CREAT), 0
    for step in (65536, 4096, 1):
        while True:
            try:
                size += os.write(fd, b"x" * step)
            except OSError:
                break
    os.close(fd)
    return size


@root
def test_a_full_disk_stops_acquires_and_no_release(mount: Callable[..., Path]) -> None:
    """On a full disk new names and growth are refused by path; every hold and every place in a row comes back."""
    path = mount("size=2m")
    url = f"file://{path}/space"
    with interlock.connect(url) as session, interlock.connect(url) as other:
        store = session.store
        held = [session.lock(f"name-{number}").acquire() for number in range(5)]
        assert other.lock("name-0").try_acquire() is None
        writer, readers = Ticket(session.id, 10_000), [Ticket(other.id, 20_000 + n) for n in range(600)]
        store.transact("crowd", LOCK, Acquire(writer))
        for reader in readers:
            store.transact("crowd", LOCK, Acquire(reader, shared=True))
        assert fill(path) > 100_000

        with pytest.raises(interlock.Unavailable, match="the disk is full") as caught:
            session.lock("new").acquire(timeout=30)
        assert str(path) in str(caught.value)

        def crowd_in() -> None:
            for serial in range(100_000):
                store.transact("crowd", LOCK, Acquire(Ticket(other.id, 30_000 + serial), shared=True))

        with pytest.raises(interlock.Unavailable, match="the disk is full"):
            crowd_in()

        outcome = store.transact("crowd", LOCK, Leave(writer))
        assert set(readers) <= set(outcome.unpark)
        for reader in readers:
            assert store.transact("crowd", LOCK, Leave(reader)).state == "left"
        for grant in held:
            grant.release()
        assert not session.lock("name-0").locked()
        with other.lock("name-0", timeout=30) as grant:
            assert not grant.recovered

        (path / "ballast").unlink()
        with session.lock("new", timeout=30):
            pass


VICTIMS: dict[str, Callable[[FileStore], str]] = {
    "record": lambda store: "records/" + os.listdir(f"{store.path}/records")[0],
    "settings": lambda store: "settings.json",
    "floor": lambda store: "floor",
    "records": lambda store: "records",
    "sessions": lambda store: "sessions",
}


@pytest.mark.parametrize("planted", ["link to a file", "link to nothing", "link to a folder", "pipe", "folder", "file"])
@pytest.mark.parametrize("victim", sorted(VICTIMS))
def test_nothing_planted_is_used_or_harmed(tmp_path: Path, victim: str, planted: str) -> None:
    """Whatever lies in place of a file or folder of ours is refused, soon, and neither followed nor changed."""
    path, elsewhere = tmp_path / "space", tmp_path / "elsewhere"
    with interlock.connect(f"file://{path}") as session:
        with session.lock("name"), session.lock("other"):
            pass
        session.store.retire("other", LOCK)
        target = path / VICTIMS[victim](session.store)  # type: ignore[arg-type]
    target.rename(tmp_path / "moved")
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("precious")
    plant = {
        "link to a file": lambda: target.symlink_to(elsewhere / "precious"),
        "link to nothing": lambda: target.symlink_to(elsewhere / "nothing"),
        "link to a folder": lambda: target.symlink_to(elsewhere),
        "pipe": lambda: os.mkfifo(target),
        "folder": target.mkdir,
        "file": lambda: target.write_text("not ours"),
    }[planted]
    plant()

    def use() -> None:
        session = interlock.connect(f"file://{path}")
        if victim == "floor":
            session.lock("name").acquire(timeout=1).release()
        lock = session.lock("new" if victim == "floor" else "name")
        if planted == "folder" and victim in ("records", "sessions"):  # as good as the one that was there
            lock.acquire(timeout=1).release()
            return
        with pytest.raises((interlock.RecordInvalid, interlock.Unavailable)) as caught:
            lock.acquire(timeout=1)
        assert str(path) in str(caught.value)
        assert target.name in str(caught.value) or victim in ("records", "sessions")

    stranger(use)
    assert os.listdir(elsewhere) == ["precious"]
    assert (elsewhere / "precious").read_text() == "precious"
    if planted == "file":
        assert target.read_text() == "not ours"


@pytest.mark.parametrize("planted", ["link", "pipe", "folder", "short file"])
def test_without_wake_up_words_waiting_polls(tmp_path: Path, planted: str) -> None:
    """Something else in place of the wake-up words costs wake-ups, not safety: waiting polls, the plant stays."""
    path = tmp_path / "space"
    lock_once(path)
    (path / "wake").unlink(missing_ok=True)
    (tmp_path / "precious").write_bytes(b"p" * 20_000)
    {
        "link": lambda: (path / "wake").symlink_to(tmp_path / "precious"),
        "pipe": lambda: os.mkfifo(path / "wake"),
        "folder": lambda: (path / "wake").mkdir(),
        "short file": lambda: (path / "wake").write_bytes(b"x"),
    }[planted]()

    def hold() -> None:
        with interlock.connect(f"file://{path}").lock("name"):
            time.sleep(0.1)

    def wait_for_it() -> None:
        while not (lock := interlock.connect(f"file://{path}").lock("name")).locked():
            pass
        lock.acquire(timeout=10).release()

    with collected():
        waiter, holder = fork(wait_for_it), fork(hold)
        assert wait(waiter) == wait(holder) == 0
    assert (tmp_path / "precious").read_bytes() == b"p" * 20_000


@pytest.mark.parametrize(
    "content",
    [b"", b"interlock 2 v=3\n", b"4711\n", b"\0" * 4096, bytes(range(255, 0, -1))],
    ids=["empty", "newer", "foreign", "zeros", "random"],
)
def test_a_strange_record_is_refused_and_kept(file_url: str, tmp_path: Path, content: bytes) -> None:
    """An empty, newer, foreign or random record is `RecordInvalid` for everybody, listed as such, and kept as it is."""
    with interlock.connect(file_url) as session:
        with session.lock("name"), session.lock("sound"):
            pass
        path = next((tmp_path / "space" / "records").glob("name~*"))
        path.write_bytes(content)
        assert not session.store.retire("name", LOCK)
        for act in (session.lock("name").acquire, session.lock("name").locked):
            with pytest.raises(interlock.RecordInvalid) as caught:
                act()
            assert caught.value.path == str(path)
            assert "name" in str(caught.value)
        listed = list(session.store.records())
        assert [type(found).__name__ for found in listed] == ["RecordInvalid", "Stored"]
        assert path.read_bytes() == content


def test_another_names_record_is_refused(file_url: str, tmp_path: Path) -> None:
    """A sound record copied over another's is not taken for it."""
    with interlock.connect(file_url) as session:
        with session.lock("name"), session.lock("other"):
            pass
        records = tmp_path / "space" / "records"
        mine, others = next(records.glob("name~*")), next(records.glob("other~*"))
        mine.write_bytes(others.read_bytes())
        with pytest.raises(interlock.RecordInvalid, match="record of 'other'"):
            session.lock("name").acquire(timeout=1)
