"""`JsonFile`: no lost update, no partial read, no lock for readers, and a name for whoever is in the way."""

from __future__ import annotations

import gc
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.files import JsonFile, fenced_replace
from processes import NOBODY, as_root, become_nobody, finish, kill, open_directory, run, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a document that does not exist yet."""
    return tmp_path / "doc.json"


def add_one(data: dict[str, Any]) -> dict[str, Any]:
    data["count"] = data.get("count", 0) + 1
    return data


# -- reading


def test_reads_what_was_written(path: Path) -> None:
    """Every JSON value comes back, text of all scripts included."""
    doc = JsonFile(path)
    for data in ({"a": [1, 2.5, None, True], "größe": "日本語 🧬 \ud800"}, [], "text", 0, None):
        doc.write(data)
        assert doc.read() == data
        assert doc.read(default="unused") == data


def test_missing_file(path: Path) -> None:
    """Without a file, reading and updating give the default, or an error that names the file; writing makes it."""
    doc = JsonFile(path)
    assert doc.read(default=None) is None
    for use in (doc.read, lambda: doc.update(add_one)):
        with pytest.raises(FileNotFoundError, match=r"doc\.json"):
            use()
    assert doc.update(add_one, default={}) == {"count": 1}
    assert doc.read() == {"count": 1}


def test_the_callers_default_is_never_changed(path: Path) -> None:
    """What readers and updaters do to the default, at any depth, they do to a copy; a sentinel stays itself."""
    default: dict[str, list[int]] = {"runs": []}

    def append(data: dict[str, list[int]]) -> dict[str, list[int]]:
        data["runs"].append(1)
        return data

    doc, sentinel = JsonFile(path), object()
    assert doc.read(default=sentinel) is sentinel
    append(doc.read(default=default))
    assert doc.update(append, default=default) == {"runs": [1]}
    assert default == {"runs": []}


@pytest.mark.parametrize("damage", [b"", b'{"a": 1', b"\xff\xfe\xff", b"[" * 100_000, b"1" * 5000, b"{} {}"])
def test_damage_is_named_and_kept(path: Path, damage: bytes) -> None:
    """A damaged document raises an error with its path, and no update overwrites it."""
    path.write_bytes(damage)
    for use in (JsonFile(path).read, lambda: JsonFile(path).update(add_one, default={})):
        with pytest.raises(json.JSONDecodeError, match=rf"{path} is not JSON"):
            use()
    assert path.read_bytes() == damage


def test_readers_need_no_right_to_write() -> None:
    """Another user reads from a directory that is closed to it, and is told why it may not write."""

    def child(path: Path) -> None:
        become_nobody()
        assert JsonFile(path).read() == {"count": 1}
        with pytest.raises(interlock.Unavailable, match="permission denied"):
            JsonFile(path).update(add_one)

    with open_directory() as directory:
        path = directory / "doc.json"
        path.write_text('{"count": 1}')
        path.chmod(0o444)
        directory.chmod(0o555)
        run(child, path)
        assert os.listdir(directory) == ["doc.json"]


def test_readers_do_not_wait(path: Path) -> None:
    """A read in the middle of an update finds the document from before it."""
    doc = JsonFile(path)
    doc.write({"count": 1})

    def update(data: dict[str, int]) -> dict[str, int]:
        run(lambda: doc.read() == {"count": 1} or sys.exit(1))
        return add_one(data)

    doc.update(update)
    assert doc.read() == {"count": 2}


def test_read_survives_a_server_that_drops_replaced_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale handle, as network file systems report for a file replaced elsewhere, only makes the read start again."""
    import builtins
    import errno

    stale, really_open = [1, 2], open

    def open_stale(*args: Any) -> Any:
        if stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), args[0], stale.pop())
        return really_open(*args)

    path.write_text("{}")
    monkeypatch.setattr(builtins, "open", open_stale)
    assert JsonFile(path).read() == {}
    assert stale == []


# -- changing


@pytest.mark.parametrize("result", [None, {1, 2}, object(), {("a",): 1}])
def test_update_to_what_is_no_document(path: Path, result: object) -> None:
    """A function that forgets to return, or returns what is not JSON, loses nothing; the lock is free again."""
    doc = JsonFile(path)
    doc.write({"count": 1})
    with pytest.raises(TypeError):
        doc.update(lambda data: result)
    assert doc.update(add_one) == {"count": 2}
    assert sorted(os.listdir(path.parent)) == [".interlock", "doc.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_of_the_function(path: Path, error: type[BaseException]) -> None:
    """What the function raises comes out; nothing is written, and the lock is free again."""
    doc = JsonFile(path, timeout=0)
    doc.write({"count": 1})

    def fail(data: Any) -> None:
        data.clear()
        raise error

    with pytest.raises(error):
        doc.update(fail)
    assert doc.update(add_one) == {"count": 2}


def test_options(path: Path) -> None:
    """A document for people is indented; a wrong timeout is refused at once."""
    JsonFile(path, indent=2, sync=False).write({"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="timeout"):
        JsonFile(path, timeout=-1)


def test_keeps_mode_and_link(path: Path) -> None:
    """A document behind a link keeps its mode, and the link stays one."""
    link = path.parent / "link"
    link.symlink_to(path.name)
    path.write_text("{}")
    path.chmod(0o664)
    JsonFile(link).update(add_one)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_pickles(path: Path) -> None:
    """A copy in another process is the same document with the same options."""
    doc = JsonFile(path, timeout=3, sync=False, indent=1, scope="memory://pickles")
    assert vars(pickle.loads(pickle.dumps(doc))) == vars(doc)


def test_missing_directory_is_not_made(tmp_path: Path) -> None:
    """A path in a directory that does not exist is an error, not a reason to make directories."""
    with pytest.raises(FileNotFoundError, match="missing"):
        JsonFile(tmp_path / "missing" / "doc.json").write({})
    assert os.listdir(tmp_path) == []


# -- excluding one another


def count(path: Path, times: int) -> None:
    doc = JsonFile(path, sync=False)
    for _ in range(times):
        doc.update(add_one, default={})


def test_eight_processes_lose_no_update(path: Path) -> None:
    """Eight processes that count at the same time, from no file on, miss nothing; a reader sees the count only grow."""
    counters = [start(count, path, 25) for _ in range(8)]
    seen = [0]
    while any(counter.is_alive() for counter in counters):
        seen.append(JsonFile(path).read(default={"count": 0})["count"])
    finish(*counters)
    assert JsonFile(path).read() == {"count": 200}
    assert seen == sorted(seen)


def test_threads_lose_no_update(path: Path) -> None:
    """The same for threads of one process."""
    threads = [threading.Thread(target=count, args=(path, 25)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert JsonFile(path).read() == {"count": 100}


def test_killed_writers_lose_no_finished_update(path: Path) -> None:
    """Writers killed at any moment leave a whole document, no step back, and a lock that others get."""
    seen = 0
    for _ in range(8):
        writer = start(count, path, 1_000_000)
        enough = seen + 5
        while seen < enough:
            now = JsonFile(path).read(default={"count": 0})["count"]
            assert now >= seen
            seen = now
        kill(writer)
        before = JsonFile(path).read()["count"]
        assert before >= seen
        seen = JsonFile(path, timeout=30).update(add_one)["count"]
        assert seen == before + 1


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "relative": lambda path: os.path.relpath(path),
    "dots": lambda path: f"{path.parent}/../{path.parent.name}//./{path.name}",
    "link": lambda path: f"{path.parent}/link",
    "linked directory": lambda path: f"{path.parent}/folder/{path.name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["doc.json", "größe 1%2F?#.json", os.fsdecode(b"\xff.json"), "n" * 255])
def test_all_paths_of_a_file_have_one_lock(tmp_path: Path, spelling: str, name: str) -> None:
    """However a process spells the path, it finds the writer; timeout 0 tries once and names that writer."""
    path = tmp_path / name
    (tmp_path / "link").symlink_to(name)
    (tmp_path / "folder").symlink_to(".")
    other = JsonFile(SPELLINGS[spelling](path), timeout=0)

    def child() -> None:
        for use in (lambda: other.update(add_one, default={}), lambda: other.write({})):
            with pytest.raises(interlock.AcquireTimeout) as caught:
                use()
            assert [holder.pid for holder in caught.value.holders] == [os.getppid()]
            assert caught.value.name == name

    def update(data: dict[str, int]) -> dict[str, int]:
        run(child)
        with pytest.raises(interlock.Deadlock):
            other.update(add_one)
        return data

    JsonFile(path).update(update, default={})
    assert other.update(add_one) == {"count": 1}


def test_relative_path_outlives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document made with a relative path stays the same file."""
    monkeypatch.chdir(tmp_path)
    doc = JsonFile("doc.json")
    monkeypatch.chdir("/")
    doc.write({})
    assert (tmp_path / "doc.json").exists()


def test_directory_of_any_name(tmp_path: Path) -> None:
    """The locks are beside the document, whatever characters of URLs its directory has."""
    folder = tmp_path / "größe 1%2F?a=b#c"
    folder.mkdir()
    JsonFile(folder / "doc.json").write({})
    assert sorted(os.listdir(folder)) == [".interlock", "doc.json"]


def test_scope_elsewhere(path: Path, file_url: str) -> None:
    """With a scope the locks are there: nothing beside the document, and the same exclusion."""
    (path.parent / "documents").mkdir()
    path = path.parent / "documents" / "doc.json"
    doc = JsonFile(path, scope=file_url)

    def child() -> None:
        with pytest.raises(interlock.AcquireTimeout):
            JsonFile(path, scope=file_url, timeout=0).write({})

    def update(data: dict[str, int]) -> dict[str, int]:
        run(child)
        JsonFile(path.parent.parent / "doc.json", scope=file_url).write("another of the same name")
        return data

    doc.update(update, default={})
    assert os.listdir(path.parent) == ["doc.json"]


def test_process_leaves_no_session_behind(path: Path) -> None:
    """A process that ends in the ordinary way closes its session beside the document."""
    program = f"from interlock.files import JsonFile; JsonFile({str(path)!r}).write({{}})"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert os.listdir(path.parent / ".interlock" / "sessions") == []


@as_root
def test_users_of_a_sticky_directory_do_not_meet() -> None:
    """Where only its owner can replace a file, as in /tmp, users have locks of their own; root uses the owner's."""

    def child(path: Path) -> None:
        become_nobody()
        JsonFile(path).update(add_one, default={})

    with open_directory() as directory:
        directory.chmod(0o1777)
        path = directory / "theirs.json"
        run(child, path)
        JsonFile(path).update(add_one)
        run(child, path)
        assert JsonFile(path).read() == {"count": 3}
        assert sorted(os.listdir(directory)) == [f".interlock-{NOBODY}", "theirs.json"]
        JsonFile(directory / "mine.json").write({})
        assert os.stat(directory / ".interlock-0").st_uid == 0


@as_root
def test_group_shares_a_setgid_directory() -> None:
    """In a directory with the group's bit, locks and tokens that one member made serve the others."""

    def child(path: Path) -> None:
        os.setgroups([os.stat(path).st_gid])
        os.setuid(NOBODY)
        JsonFile(path).update(add_one)
        fenced_replace(path.with_name("source"), path, token=2)

    with open_directory() as directory:
        directory.chmod(0o2775)
        path, made = directory / "doc.json", directory / "source"
        made.write_text("{}")
        fenced_replace(made, path, token=1)
        made.write_text('{"count": 5}')
        run(child, path)
        assert JsonFile(path).update(add_one) == {"count": 6}


def test_many_directories_do_not_use_up_the_descriptors(tmp_path: Path) -> None:
    """A process that updates documents in many directories keeps the locks of a few of them at hand."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(150):
        (tmp_path / str(number)).mkdir()
        JsonFile(tmp_path / str(number) / "x.json", sync=False).update(lambda count: count + 1, default=0)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) - before < 220
    assert JsonFile(tmp_path / "0" / "x.json").update(lambda count: count + 1) == 2
