"""`interlock.compat.torchcell`: what its users rely on, and what must not happen to them any more."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.compat.torchcell import FileLockHelper
from interlock.files import atomic
from processes import FORK, as_root, become_nobody, finish, kill, open_directory, run, start

read = FileLockHelper.read_json_with_lock
write = FileLockHelper.write_json_with_lock
update = FileLockHelper.update_json_with_lock
lock_of = FileLockHelper.with_file_lock
cleanup = FileLockHelper.cleanup_lock_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a document that does not exist yet."""
    return tmp_path / "data.json"


def add_one(data: dict[str, int]) -> dict[str, int]:
    data["count"] = data.get("count", 0) + 1
    return data


def visible(directory: Path) -> list[str]:
    """The files that ``ls`` shows."""
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))


@contextmanager
def held_by_another_process(path: Path) -> Iterator[Any]:
    """The process that holds the file's lock meanwhile."""
    mine, theirs = FORK.Pipe()

    def hold() -> None:
        with lock_of(path):
            theirs.send("held")
            theirs.recv()

    process = start(hold)
    assert mine.poll(60)
    yield process
    mine.send("enough")
    process.join(60)


# -- documents


def test_writes_and_reads(path: Path) -> None:
    """What was written comes back, for a path as text or as Path."""
    write(path, {"key": "value", "number": 42})
    assert read(str(path)) == {"key": "value", "number": 42}


def test_layout_of_the_text(path: Path) -> None:
    """Indented by two and with letters as they are unless asked otherwise; an update is written like that too."""
    write(path, {"ä": [1]})
    assert path.read_bytes() == '{\n  "ä": [\n    1\n  ]\n}\n'.encode()
    write(path, {"ä": 1}, indent=0, ensure_ascii=True)
    assert path.read_bytes() == b'{\n"\\u00e4": 1\n}\n'
    update(path, lambda data: data)
    assert path.read_bytes() == '{\n  "ä": 1\n}\n'.encode()


def test_makes_the_directories_of_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to make a file makes the directories above it; a bare name needs none."""

    def lock_and_write(path: Path) -> None:
        with lock_of(path):
            path.write_text("{}")

    for make in (
        lambda path: write(path, {}),
        lambda path: update(path, add_one),
        lambda path: read(path, create_if_missing=True),
        lock_and_write,
    ):
        path = tmp_path / str(len(os.listdir(tmp_path))) / "deep" / "data.json"
        make(path)
        assert path.exists()
    monkeypatch.chdir(tmp_path)
    write("data.json", {})
    assert read("data.json") == {}


def test_missing_file(tmp_path: Path) -> None:
    """Where nothing is to be made nothing is, not even a directory."""
    for path in (tmp_path / "data.json", tmp_path / "missing" / "data.json"):
        with pytest.raises(FileNotFoundError, match=path.name):
            read(path)
        with pytest.raises(FileNotFoundError):
            update(path, add_one, create_if_missing=False)
        assert not path.exists()
    assert not (tmp_path / "missing").exists()


def test_default_is_written_and_never_changed(path: Path) -> None:
    """A missing file begins as the default, else as {}; what callers do to the result, the default does not see."""
    default: dict[str, list[int]] = {"runs": []}
    read(path, create_if_missing=True, default_data=default)["runs"].append(1)
    assert json.loads(path.read_text()) == {"runs": []}
    other = path.with_name("other.json")
    assert update(other, lambda data: data["runs"].append(1) or data, default_data=default) == {"runs": [1]}
    assert default == {"runs": []}
    assert update(path.with_name("empty.json"), add_one) == {"count": 1}
    assert read(path.with_name("none.json"), create_if_missing=True) == {}


def test_reader_that_creates_finds_what_another_created(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears between the look and the lock is kept and returned, not replaced by the default."""
    really_update = FileLockHelper.update_json_with_lock

    def late(*args: Any, **kwargs: Any) -> Any:
        path.write_text('{"by": "another"}')
        return really_update(*args, **kwargs)

    monkeypatch.setattr(FileLockHelper, "update_json_with_lock", late)
    assert read(path, create_if_missing=True, default_data={"by": "me"}) == {"by": "another"}
    assert json.loads(path.read_text()) == {"by": "another"}


@pytest.mark.parametrize("damage", [b"", b'{"a": 1'])
def test_damage_is_reported_and_kept(path: Path, damage: bytes) -> None:
    """A damaged file is an error for readers and updaters, even those that may create one; nothing overwrites it."""
    path.write_bytes(damage)
    for use in (lambda: read(path, create_if_missing=True), lambda: update(path, add_one)):
        with pytest.raises(json.JSONDecodeError, match=path.name):
            use()
    assert path.read_bytes() == damage


@pytest.mark.parametrize("result", [None, {1, 2}])
def test_result_that_is_no_document(path: Path, result: Any) -> None:
    """A function that forgets to return, or data that is not JSON, writes nothing; the lock is free again."""
    write(path, {"count": 1})
    with pytest.raises(TypeError):
        update(path, lambda data: result)
    with pytest.raises(TypeError):
        write(path, {1, 2})
    assert update(path, add_one, timeout=0) == {"count": 2}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_the_function(path: Path, error: type[BaseException]) -> None:
    """Whatever ends the function, Ctrl-C included, the file is whole and as it was, and the lock is free again."""
    write(path, {"count": 1})

    def fail(data: dict[str, int]) -> None:
        data.clear()
        raise error

    with pytest.raises(error):
        update(path, fail)
    assert visible(path.parent) == ["data.json", "data.json.lock"]
    assert not list(path.parent.glob(".*.tmp"))
    assert update(path, add_one, timeout=0) == {"count": 2}


def test_files_that_differ_in_their_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of a.yaml at the very moment when a.json is renamed into place disturbs neither."""
    really_replace, nested = os.replace, [True]

    def replace(source: str, target: str) -> None:
        if nested and target.endswith("a.json"):
            nested.clear()
            write(tmp_path / "a.yaml", "yaml")
        really_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path / "a.json", "json")
    assert not nested
    assert (read(tmp_path / "a.json"), read(tmp_path / "a.yaml")) == ("json", "yaml")


# -- readers


@as_root
def test_readers_need_no_right_to_write() -> None:
    """Another user reads from a directory that is closed to it, and leaves no lock file there."""

    def child(path: Path) -> None:
        become_nobody()
        assert read(path) == read(path, create_if_missing=True) == {"count": 1}
        with pytest.raises(OSError, match="ermission denied"):
            write(path, {})

    with open_directory() as directory:
        path = directory / "data.json"
        path.write_text('{"count": 1}')
        directory.chmod(0o555)
        run(child, path)
        assert os.listdir(directory) == ["data.json"]


def test_readers_wait_for_nobody(path: Path) -> None:
    """While another process holds the lock, or updates, a reader gets the last finished document."""
    write(path, {"count": 1})
    with held_by_another_process(path):
        assert read(path, timeout=0) == {"count": 1}
    update(path, lambda data: add_one(data) if read(path, timeout=0) == {"count": 1} else {})
    assert read(path) == {"count": 2}


# -- locks


USES: dict[str, Callable[[Path, float | None], Any]] = {
    "write": lambda path, timeout: write(path, {}, timeout=timeout),
    "update": lambda path, timeout: update(path, add_one, timeout=timeout),
    "create": lambda path, timeout: read(path.with_name("new.json"), timeout=timeout, create_if_missing=True),
    "acquire": lambda path, timeout: lock_of(path).acquire(timeout=timeout),
    "with": lambda path, timeout: lock_of(path, timeout=timeout).__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_timeout_is_kept_and_names_the_holder(path: Path, use: str) -> None:
    """Zero tries once, a number waits so long, None as long as the class says; the error names who holds the lock."""
    write(path, {"count": 1})
    wanted = path.with_name("new.json") if use == "create" else path
    with held_by_another_process(wanted) as holder, pytest.MonkeyPatch.context() as patch:
        for timeout, least in ((0, 0.0), (0.2, 0.2), (None, 0.1)):
            patch.setattr(FileLockHelper, "default_timeout", 60.0 if timeout == 0 else 0.1)
            with pytest.raises(TimeoutError) as caught:
                USES[use](path, timeout)
            error = caught.value
            assert isinstance(error, interlock.AcquireTimeout)
            assert [who.pid for who in error.holders] == [holder.pid]
            assert f"pid {holder.pid}" in str(error)
            assert least <= error.waited < 60
    assert read(path) == {"count": 1}


def test_filelock_and_this_have_an_error_in_common() -> None:
    """One ``except TimeoutError`` serves programs before and after the change of the import."""
    filelock = pytest.importorskip("filelock")
    assert issubclass(filelock.Timeout, TimeoutError)
    assert issubclass(interlock.AcquireTimeout, TimeoutError)


def test_defaults_and_unused_arguments(path: Path) -> None:
    """The attributes have the original's values; a retry delay, however long, delays nothing."""
    assert (FileLockHelper.default_timeout, FileLockHelper.default_retry_delay) == (60.0, 0.1)
    assert lock_of(path).timeout == 60.0
    assert lock_of(path, timeout=0).timeout == 0
    write(path, {}, retry_delay=1e9)
    assert update(path, add_one, retry_delay=1e9) == read(path, retry_delay=1e9) == {"count": 1}


def test_negative_timeout_waits_until_the_lock_is_free(path: Path) -> None:
    """As in filelock, less than zero means for ever: the update comes after the holder's end."""
    write(path, {"count": 1})
    with held_by_another_process(path) as holder:
        threads = [threading.Thread(target=update, args=(path, add_one, -1)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert read(path) == {"count": 1}
        kill(holder)
    for thread in threads:
        thread.join(60)
    assert read(path) == {"count": 3}


def test_lock_object(path: Path) -> None:
    """Both forms of ``with`` give the lock and release it; so does release, which may be repeated."""
    lock = lock_of(path, timeout=5)
    assert not lock.is_locked
    with lock as entered:
        assert entered is lock
        assert lock.is_locked
    assert not lock.is_locked
    with lock.acquire(timeout=0) as entered:
        assert entered is lock
        assert lock_of(path).is_locked
    assert not lock.is_locked
    lock.acquire()
    assert lock.is_locked
    for _ in range(2):
        lock.release()
        assert not lock.is_locked
    with pytest.raises(ValueError, match="mine"), lock:
        raise ValueError("mine")
    assert not lock.is_locked
    assert pickle.loads(pickle.dumps(lock)).timeout == 5


def test_lock_excludes_threads(path: Path) -> None:
    """A hold belongs to its thread: another one neither has it, nor gets it, nor can release it."""
    lock = lock_of(path)
    seen: list[object] = []

    def other() -> None:
        lock.release()
        seen.append(lock.is_locked)
        with pytest.raises(TimeoutError):
            update(path, add_one, timeout=0)
        seen.append("excluded")

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert lock.is_locked
    assert seen == [False, "excluded"]


def test_nested_use_of_one_file_raises_at_once(path: Path) -> None:
    """Whatever locks a file inside a lock of the same thread is told that it would wait for itself."""
    write(path, {"count": 1})
    uses = [lambda: update(path, add_one), lambda: write(path, {}), lambda: lock_of(path).acquire()]

    def nest(data: dict[str, int]) -> dict[str, int]:
        for use in uses:
            with pytest.raises(interlock.Deadlock):
                use()
        update(path.with_name("other.json"), add_one)
        return add_one(data)

    update(path, nest)
    with lock_of(path):
        nest({})
    assert read(path) == {"count": 2}
    assert read(path.with_name("other.json")) == {"count": 2}


def test_forked_child_holds_nothing(path: Path) -> None:
    """The child of a holder is somebody else: it is kept out, and neither its release nor its end frees the lock."""
    lock = lock_of(path)

    def child() -> None:
        assert not lock.is_locked
        lock.release()
        with pytest.raises(interlock.AcquireTimeout) as caught:
            update(path, add_one, timeout=0)
        assert [who.pid for who in caught.value.holders] == [os.getppid()]

    with lock:
        run(child)
        run(child)
        assert lock.is_locked
    run(update, path, add_one, 0)
    assert read(path) == {"count": 1}


# -- many processes


def note(path: Path, process: int, die: str = "") -> None:
    """Twenty updates, each of which adds its own line; at the twelfth a victim is killed in the middle."""

    def add(data: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        if die == "in the function" and turn == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        data["done"].append([process, turn])
        return data

    for turn in range(20):
        if die == "before the rename" and turn == 12:
            atomic.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        update(path, add, default_data={"done": []})


def test_killed_writers_harm_nobody(path: Path) -> None:
    """Of eight processes two are killed while they hold the lock: every finished update is there, and every read is
    a whole document that only grows."""
    victims = {2: "in the function", 5: "before the rename"}
    workers = [start(note, path, number, victims.get(number, "")) for number in range(8)]
    before: list[list[int]] = []
    while any(worker.is_alive() for worker in workers):
        now = read(path, create_if_missing=True, default_data={"done": []})["done"]
        assert now[: len(before)] == before
        before = now
    assert [worker.exitcode for worker in workers] == [-9 if number in victims else 0 for number in range(8)]
    done = read(path)["done"]
    assert sorted(done) == [[who, turn] for who in range(8) for turn in range(12 if who in victims else 20)]
    assert len(list(path.parent.glob(".data.json.*.tmp"))) == 1
    assert cleanup(path.parent) == 1


# -- markers


def test_cleanup_removes_the_markers(tmp_path: Path) -> None:
    """Every file that was written has a marker; cleanup counts and removes them, below too, and only them."""
    places = [tmp_path / "0.json", tmp_path / "1", tmp_path / "below" / "2.tar.json"]
    for path in places:
        write(path, path.name)
    assert [str(path) for path in sorted(tmp_path.rglob("*.lock"))] == sorted(f"{path}.lock" for path in places)
    assert cleanup(tmp_path) == 3
    assert cleanup(tmp_path) == cleanup(tmp_path / "missing") == 0
    assert not list(tmp_path.rglob("*.lock"))
    assert [read(path) for path in places] == [path.name for path in places]
    update(places[0], lambda data: data)
    assert (tmp_path / "0.json.lock").exists()


def test_cleanup_keeps_what_is_not_a_marker(tmp_path: Path) -> None:
    """Other programs' lock files stay, empty ones and directories included, and a write does not touch them either."""
    (tmp_path / "uv.lock").write_text("version = 1")
    (tmp_path / "data.json.lock").touch()
    (tmp_path / "folder.lock").mkdir()
    os.mkfifo(tmp_path / "pipe.lock")
    write(tmp_path / "data.json", {})
    write(tmp_path / "uv", {})
    assert cleanup(tmp_path) == 0
    assert (tmp_path / "uv.lock").read_text() == "version = 1"
    assert (tmp_path / "data.json.lock").read_text() == ""
    assert visible(tmp_path) == ["data.json", "data.json.lock", "folder.lock", "pipe.lock", "uv", "uv.lock"]


def test_cleanup_keeps_the_marker_of_a_held_lock(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Held by another process or by this thread, the marker stays, and the log says who holds it."""
    with held_by_another_process(path) as holder:
        with caplog.at_level(logging.WARNING):
            assert cleanup(path.parent) == 0
        assert f"pid {holder.pid}" in caplog.text
    with lock_of(path):
        assert cleanup(path.parent) == 0
    assert visible(path.parent) == ["data.json.lock"]
    assert cleanup(path.parent) == 1


def test_cleanup_removes_the_marker_of_a_dead_holder(path: Path) -> None:
    """A holder that was killed keeps no marker."""
    with held_by_another_process(path) as holder:
        kill(holder)
    assert cleanup(path.parent) == 1


def test_removing_a_marker_frees_nothing(path: Path) -> None:
    """Exclusion does not depend on the marker: whoever deletes every ``.lock`` file by hand lets nobody in."""
    with held_by_another_process(path) as holder:
        Path(f"{path}.lock").unlink()
        with pytest.raises(interlock.AcquireTimeout) as caught:
            update(path, add_one, timeout=0)
        assert [who.pid for who in caught.value.holders] == [holder.pid]


def test_marker_is_a_courtesy(tmp_path: Path) -> None:
    """A name so long that its marker has none is locked and written all the same."""
    path = tmp_path / ("n" * 252)
    assert update(path, add_one) == {"count": 1}
    assert visible(tmp_path) == [path.name]


def test_cleanup_beside_writers(path: Path) -> None:
    """While others write, cleanup after cleanup loses no update."""

    def count() -> None:
        for _ in range(25):
            update(path, add_one)

    writers = [start(count) for _ in range(3)]
    while any(writer.is_alive() for writer in writers):
        cleanup(path.parent)
    finish(*writers)
    assert read(path) == {"count": 75}
