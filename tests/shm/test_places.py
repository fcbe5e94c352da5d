"""Where objects are: any name, whatever somebody planted or removed there, no room, and nothing done to strangers."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock
from interlock.shm import store as shm_store
from processes import NOBODY, as_root
from shm.conftest import Connect, folder, place

NAMES = ["a/b", "../../x", "~", ".", "..", "-", " ", "\n", "\x1b[2J", "ключ 🔒", "\udc80", "x" * 1000, "🔒" * 1000]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_a_name_of_its_own(connect: Connect, url: str, name: str) -> None:
    """Names that are hard for file systems work, are listed as they are, and make files only below the scope."""
    one, other = connect(), connect()
    with one.lock(name):
        assert other.lock(name).try_acquire() is None
        assert other.lock(name + "'"[: len(name) < 1000]).locked() == (len(name) >= 1000)
        assert [stored.name for stored in one.store.records()] == [name]  # type: ignore[union-attr]
    assert {path.name for path in (folder(url) / "native").iterdir()} == {place(url, name).name}


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "x" * 10_000])
def test_what_is_no_name_is_refused(connect: Connect, name: str) -> None:
    """As in every store."""
    with pytest.raises(interlock.InvalidName):
        connect().lock(name)


@pytest.mark.parametrize("name", ["", "a/b", "a%2Fb", "a%00b", ".hidden", "..", "a?x=1", "a#b", "x" * 201])
def test_what_is_no_scope_is_refused(name: str) -> None:
    """A scope is one directory of this user's, whatever the URL says."""
    with pytest.raises(interlock.Unavailable):
        interlock.connect(f"shm://{name}").lock("a").try_acquire()


def plant_symlink(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "victim")


def plant_valid_symlink(path: Path, tmp_path: Path) -> None:
    """A link to something of the very kind that is expected."""
    shutil.move(path.with_name("kept"), tmp_path / "victim")
    path.symlink_to(tmp_path / "victim")


def plant_directory(path: Path, tmp_path: Path) -> None:
    path.mkdir()


def plant_fifo(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)


def plant_nothing(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")


def plant_garbage(path: Path, tmp_path: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def plant_half(path: Path, tmp_path: Path) -> None:
    content = path.with_name("kept").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def plant_other_version(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.with_name("kept").read_bytes())
    content[8:12] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)


PLANTED: list[Callable[[Path, Path], None]] = [
    plant_symlink, plant_valid_symlink, plant_directory, plant_fifo, plant_nothing, plant_garbage, plant_half,
    plant_other_version,
]  # fmt: skip


@pytest.fixture
def used(url: str) -> str:
    """A scope in which somebody used a lock and left."""
    with interlock.connect(url) as session, session.lock("a"):
        pass
    return url


def replace(path: Path, tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    """Put something else in a file's place."""
    os.rename(path, path.with_name("kept"))
    plant(path, tmp_path)
    path.with_name("kept").unlink(missing_ok=True)


def in_a_process(url: str, code: str) -> str:
    """What a process prints that knows nothing of before."""
    script = f"import interlock; session = interlock.connect({url!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRY = """
lock = session.lock('a')
for step in (lambda: lock.acquire(1), lock.locked, lock.try_acquire):
    try:
        step()
    except interlock.InterlockError as error:
        print(type(error).__name__)
print(session.lock('b').try_acquire() is not None)
"""


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_at_an_object_is_told_and_left_alone(
    used: str, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """It is an error that says where it is; nothing hangs or crashes, other names work, and `break` sets it aside."""
    replace(place(used, "a"), tmp_path, plant)
    found = in_a_process(used, TRY)
    assert found.splitlines() == ["RecordInvalid"] * 3 + ["True"]
    with interlock.connect(used) as session:
        damaged = [error for error in session.store.records() if isinstance(error, interlock.RecordInvalid)]
        assert [error.path for error in damaged] == [str(place(used, "a"))]
        with pytest.raises(interlock.RecordInvalid, match="interlock break 'a'"):
            session.lock("a").locked()
        assert os.path.lexists(session.store.discard("a") or "")
        assert session.lock("a").try_acquire() is not None
        session.lock("a").holder()
    if plant is plant_symlink:
        assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_at_the_lives_is_told(used: str, tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    """Without proof of death nothing is begun: an error, no crash, no hang."""
    replace(folder(used) / "lives", tmp_path, plant)
    found = in_a_process(used, TRY.replace("print(session.lock('b')", "0 and print(session.lock('b')"))
    assert found.splitlines() == ["RecordInvalid"] * 3


def test_a_file_of_another_name_is_not_this_object(used: str) -> None:
    """A file that was copied to another name's place is refused."""
    shutil.copy(place(used, "a"), place(used, "b"))
    assert in_a_process(used, TRY.replace("'a'", "'b'").rsplit("print", 1)[0]).splitlines() == ["RecordInvalid"] * 3


def test_what_was_never_finished_is_not_listed(used: str, connect: Connect) -> None:
    """What a process left that was killed while it made an object is nobody's damage."""
    place(used, "a").with_name(".a~1.0123456789ab").write_bytes(b"half")
    assert [stored.name for stored in connect().store.records()] == ["a"]  # type: ignore[union-attr]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Scopes in a file system of their own, with room for a few objects."""
    place = tmp_path / "shm"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", place]).returncode:
        pytest.skip("only root may mount here")
    monkeypatch.setattr(shm_store, "PLACE", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_file_system_is_told_when_an_object_is_made(small: Path) -> None:
    """What exists goes on working, what does not fit is an error with a reason, and leaves nothing behind."""
    with interlock.connect("shm://full") as session:
        first = session.lock("0")
        first.acquire().release()
        made = 1

        def fill() -> None:
            nonlocal made
            while made < 100:
                session.lock(str(made)).acquire().release()
                made += 1

        with pytest.raises(interlock.Unavailable, match="the disk is full"):
            fill()
        with first:
            pass
        left = {path.name for path in (folder("shm://full") / "native").iterdir()}
        assert not [name for name in left if name.startswith(".")]
        with session.lock(str(made - 1)):
            pass


def test_a_read_only_file_system_is_told(small: Path) -> None:
    """An error that names the place, at once."""
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    began = time.monotonic()
    with pytest.raises(interlock.Unavailable, match=re.escape(str(small))):
        interlock.connect("shm://x").lock("a").try_acquire()
    assert time.monotonic() - began < 5


def test_a_place_of_other_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of scopes must be this user's alone, and a directory."""
    monkeypatch.setattr(shm_store, "PLACE", str(tmp_path))
    home = tmp_path / f"interlock-{os.geteuid()}"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(interlock.Unavailable, match="not a directory of yours alone"):
        interlock.connect("shm://x")
    home.rmdir()
    home.symlink_to(tmp_path)
    with pytest.raises(interlock.Unavailable, match="not a directory of yours alone"):
        interlock.connect("shm://x")


@as_root
def test_a_place_that_somebody_else_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was there first could read and change what is made there."""
    monkeypatch.setattr(shm_store, "PLACE", str(tmp_path))
    home = tmp_path / f"interlock-{os.geteuid()}"
    home.mkdir(0o700)
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(interlock.Unavailable, match="not a directory of yours alone"):
        interlock.connect("shm://x")


def test_a_removed_scope_is_made_anew(connect: Connect, url: str) -> None:
    """Sessions opened before and after the removal meet in the new scope, with larger tokens."""
    before = connect()
    with before.lock("a") as grant:
        token = grant.token
    shutil.rmtree(folder(url))
    after = connect()
    with after.lock("a") as grant:
        assert grant.token > token
        assert before.lock("a").try_acquire() is None
    with before.lock("a"):
        assert after.lock("a").try_acquire() is None


def test_tokens_grow_when_the_clock_goes_back(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is made anew goes on where the one before ended, whatever the clock says."""
    session = connect()
    with session.lock("a") as grant:
        token = grant.token
    assert session.store.retire("a", session.lock("a").machine)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    with session.lock("a") as grant:
        assert grant.token > token


def test_no_descriptor_is_left_open(url: str) -> None:
    """A process that comes and goes in one scope hundreds of times stays as small as it was."""
    code = """
import os
def once():
    with interlock.connect(session.url) as other, other.lock('a'):
        pass
del session
session = type('Url', (), {'url': %r})
for _ in range(10):
    once()
before = len(os.listdir('/proc/self/fd')), open('/proc/self/maps').read().count('\\n')
for _ in range(400):
    once()
after = len(os.listdir('/proc/self/fd')), open('/proc/self/maps').read().count('\\n')
print(after[0] <= before[0], after[1] <= before[1] + 20, before, after)
"""
    assert in_a_process(url, code % url).startswith("True True")


def test_an_error_of_the_system_has_our_name(used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system refuses while an object is opened is `Unavailable`, never a bare `OSError`."""
    with interlock.connect(used) as session:
        space = session.store._opened()  # type: ignore[attr-defined]

        def fail(*args: object) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        session.lock("b").locked()
        monkeypatch.setattr(space, "open", fail)
        with pytest.raises(interlock.Unavailable):
            session.lock("a").locked()
        with pytest.raises(interlock.Unavailable):
            session.lock("a").try_acquire()


def test_a_farewell_does_not_make_a_removed_scope_anew(url: str) -> None:
    """A party of a barrier that closes its session after the scope was removed leaves nothing there."""
    session = interlock.connect(url)
    barrier = session.barrier("a", 1)
    session.joins("a", barrier.machine)
    barrier.wait()
    shutil.rmtree(folder(url))
    time.sleep(0.05)  # a removal is noticed after 10 ms
    session.close()
    assert not folder(url).exists()
