"""`interlock.compat.streaming.SharedArray`: one array for all who use its name, for as long as one of them lives."""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interlock
from crash.processes import Board, collected, fork, kill, wait
from interlock.compat.streaming import SharedArray, clean_stale_shared_memory, stale_arrays
from interlock.compat.streaming import array as module
from patience import until


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of this test's own arrays."""
    monkeypatch.setattr(module, "_FOLDER", f".arrays-{uuid.uuid4().hex}")
    with collected():
        yield Path(module._folder())
    module._detach()
    shutil.rmtree(module._folder())


def attached(name: str = "a", shape: Any = 3) -> int:
    """A process that attaches to an array and stays."""
    board = Board(1)

    def stay() -> None:
        SharedArray(shape, np.int64, name)[0] += 1
        board[0] = 1
        signal.pause()

    pid = fork(stay)
    until(lambda: board[0])
    return pid


def program(code: str) -> str:
    """A program that works in the folder of this test's arrays."""
    return f"""
import os, sys
import numpy as np
from interlock.compat.streaming import SharedArray, array as module
module._FOLDER = {module._FOLDER!r}
{code}
"""


def run(code: str) -> None:
    """Run a program to its end in good order."""
    subprocess.run([sys.executable, "-c", program(code)], check=True, timeout=60)


# -- an array


INDICES = [0, -1, slice(None), slice(1, 7, 2), slice(None, None, -1), [3, 1], np.array([[0, 2], [5, 9]]), ..., None]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_it_is_indexed_like_an_array(folder: Path, index: Any) -> None:
    """Reading and writing at every kind of index is what it is for an array of numpy."""
    shared, plain = SharedArray(10, np.int32, "a"), np.zeros(10, np.int32)
    shared[:] = plain[:] = np.arange(10)
    assert np.array_equal(shared[index], plain[index])
    assert type(shared[index]) is type(plain[index])
    shared[index] = plain[index] = 7
    assert np.array_equal(shared.numpy(), plain)
    with pytest.raises(IndexError):
        shared[10]


@pytest.mark.parametrize("shape", [3, np.int64(3), (2, 3), (4,), (), 0])
@pytest.mark.parametrize("dtype", [np.int32, np.float64, bool, "datetime64[s]", [("x", "<i4"), ("y", "<f8", (2,))]])
def test_shapes_and_dtypes(folder: Path, shape: Any, dtype: Any) -> None:
    """A new array of any shape and dtype is that of `numpy.zeros`, and so it is for whoever attaches."""
    plain = np.zeros(shape, dtype)
    one = SharedArray(shape, dtype, "a")
    module._attached.clear()  # as another process finds it
    for shared in (one, SharedArray(shape, dtype, "a")):
        found = shared.numpy()
        assert (shared.shape, shared.dtype, shared.name) == (plain.shape, plain.dtype, "a")
        assert found.dtype == plain.dtype
        assert found.shape == plain.shape
        assert np.array_equal(found, plain)
    if plain.shape:
        assert len(one) == len(plain)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b%2F", "größe", "-", "x" * 200])
def test_names(folder: Path, name: str) -> None:
    """Any text of a file name's length is a name, tells arrays apart and is listed as it is."""
    SharedArray(1, np.int8, name)[0] = 1
    assert SharedArray(1, np.int8, name + "_")[0] == 0
    assert len([*folder.iterdir()]) == 2
    assert sorted(found for found, _ in module._files()) == sorted([name, name + "_"])


@pytest.mark.parametrize("name", ["", "x" * 260, 3, None])
def test_what_is_no_name(folder: Path, name: Any) -> None:
    """Nothing is made under what is no name."""
    with pytest.raises(interlock.InvalidName):
        SharedArray(1, np.int8, name)
    assert [*folder.iterdir()] == []


def test_objects_are_not_shared(folder: Path) -> None:
    """Pointers mean nothing to another process."""
    with pytest.raises(TypeError, match="references"):
        SharedArray(1, object, "a")


# -- sharing it


def writes(name: str, pickled: bytes, slot: int) -> None:
    """A process of any making that writes to an array it was sent."""
    module._FOLDER = name
    pickle.loads(pickled)[slot] = os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_it(folder: Path, method: str) -> None:
    """What one process writes all others read, whether they were forked, spawned, or found it by its name."""
    shared, context = SharedArray(4, np.int64, "a"), get_context(method)
    sent = pickle.dumps(shared)
    processes = [context.Process(target=writes, args=(module._FOLDER, sent, slot), daemon=True) for slot in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    pid = fork(lambda: shared.__setitem__(2, os.getpid()))
    assert wait(pid) == 0
    assert shared[:].tolist() == [processes[0].pid, processes[1].pid, pid, 0]


def test_attaching_resets_nothing(folder: Path) -> None:
    """Whoever attaches finds what is there, in this process and in another one."""
    shared = SharedArray(3, np.int64, "a")
    shared[:] = 5
    assert wait(fork(lambda: os._exit(int(SharedArray(3, np.int64, "a")[1])))) == 5
    run("os._exit(int(SharedArray(3, np.int64, 'a')[1] != 5))")
    assert SharedArray(3, np.int64, "a")[:].tolist() == [5, 5, 5]


def test_many_make_it_at_once(folder: Path) -> None:
    """Processes that all want to make it use one and the same file."""
    board = Board(1)

    def work(slot: int) -> None:
        until(lambda: board[0])
        shared = SharedArray(9, np.int64, "a")
        shared[slot] = 1
        until(lambda: shared[8])

    pids = [fork(functools.partial(work, slot)) for slot in range(8)]
    board[0] = 1
    until(lambda: [*folder.iterdir()])
    shared = SharedArray(9, np.int64, "a")
    until(lambda: shared[:8].all())
    shared[8] = 1
    assert [wait(pid) for pid in pids] == [0] * 8


@pytest.mark.parametrize(("shape", "dtype"), [(4, np.int64), ((1, 3), np.int64), (3, np.int32), (3, np.uint64)])
def test_another_shape_or_dtype_is_refused(folder: Path, shape: Any, dtype: Any) -> None:
    """Here and in another process; what is there stays, and whoever was refused does not keep it."""
    holder = attached()
    for _ in range(2):
        with pytest.raises(interlock.Mismatch, match="shape"):
            SharedArray(shape, dtype, "a")
    kill(holder)
    assert stale_arrays() == ["a"]
    SharedArray(3, np.int64, "a")
    with pytest.raises(interlock.Mismatch, match="shape"):
        SharedArray(shape, dtype, "a")


# -- its room


def test_its_room_is_its_own(folder: Path) -> None:
    """All of the memory is taken when it is made, so that no write finds it missing."""
    SharedArray(2**20, np.int8, "a")
    (file,) = folder.iterdir()
    assert file.stat().st_blocks * 512 >= 2**20


@pytest.mark.parametrize("shape", [10**12, (10**9, 10**9), 2**62])
def test_a_full_memory_is_an_error(folder: Path, shape: Any) -> None:
    """What does not fit is refused in words, and nothing is left of it."""
    with pytest.raises(interlock.Unavailable, match=r"full|large"):
        SharedArray(shape, np.int64, "a")
    assert [*folder.iterdir()] == []
    assert SharedArray(3, np.int64, "a")[:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "link"])
def test_whoever_is_killed_while_making_it_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A file has its name when it is whole, and before that none at all."""

    def dies(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(os, call, dies)
    pid = fork(lambda: SharedArray(3, np.int64, "a"))
    assert wait(pid) == -signal.SIGKILL
    assert [*folder.iterdir()] == []


def test_a_damaged_file_is_refused(folder: Path) -> None:
    """A file in use that is no array is an error, and is not overwritten."""
    holder = attached()
    (file,) = folder.iterdir()
    with open(file, "r+b") as opened:
        opened.write(b"garbage")
    with pytest.raises(interlock.RecordInvalid, match=r"a\.npy"):
        SharedArray(3, np.int64, "a")
    assert file.read_bytes().startswith(b"garbage")
    kill(holder)


# -- its end


def test_the_last_one_removes_it(folder: Path) -> None:
    """It outlives its maker as long as another process uses it, and goes with the last one."""
    run("a = SharedArray(3, np.int64, 'a')")
    assert [*folder.iterdir()] == []
    holder = attached()
    run("a = SharedArray(3, np.int64, 'a'); a[1] = 7; view = a.numpy()")
    assert SharedArray(3, np.int64, "a")[:].tolist() == [1, 7, 0]
    kill(holder)
    module._detach()
    assert [*folder.iterdir()] == []


def test_a_child_keeps_what_its_parent_made(folder: Path) -> None:
    """A forked process is attached with its parent: the parent's end, in order, takes nothing from it or newcomers."""
    code = "a = SharedArray(3, np.int64, 'a'); a[0] = 5\nif not os.fork(): os.read(0, 1); os._exit(int(a[0] != 6))"
    parent = subprocess.Popen([sys.executable, "-c", program(code)], stdin=subprocess.PIPE)
    assert parent.wait(60) == 0
    assert stale_arrays() == []
    shared = SharedArray(3, np.int64, "a")
    assert shared[0] == 5
    shared[0] = 6
    assert parent.stdin is not None
    parent.stdin.close()


def test_a_child_takes_nothing_from_its_parent(folder: Path) -> None:
    """The end of a forked process, in order, leaves the array to its parent and to newcomers."""
    shared = SharedArray(3, np.int64, "a")
    shared[0] = 5
    assert wait(fork(module._detach)) == 0
    module._attached.clear()
    assert SharedArray(3, np.int64, "a")[0] == 5


def test_what_a_killed_process_leaves_is_not_found_again(folder: Path) -> None:
    """An array that nobody is attached to is a new one to the next who uses its name, of whatever shape."""
    holder = attached()
    kill(holder)
    assert SharedArray((2, 2), np.int8, "a")[:].tolist() == [[0, 0], [0, 0]]


def test_only_what_nobody_uses_is_stale(folder: Path) -> None:
    """The living and the stopped keep their arrays; those of the killed are listed, and removed on demand alone."""
    living, stopped, killed = attached("living"), attached("stopped"), attached("killed")
    os.kill(stopped, signal.SIGSTOP)
    SharedArray(1, np.int8, "own")
    assert stale_arrays() == []
    assert clean_stale_shared_memory() == []
    kill(killed)
    assert stale_arrays() == ["killed"]
    assert stale_arrays() == ["killed"]
    assert clean_stale_shared_memory() == ["killed"]
    assert sorted(name for name, _ in module._files()) == ["living", "own", "stopped"]
    assert SharedArray(3, np.int64, "stopped")[0] == 1
    for pid in (living, stopped):
        kill(pid)


def test_a_name_is_its_users_while_they_use_it(folder: Path) -> None:
    """Processes that come and go, in order and killed: whoever is attached has the file that has the name."""
    board = Board(8)

    def work(slot: int) -> None:
        while True:
            SharedArray(8, np.int64, "a")
            (fd, _), path = module._attached["a"], module._path("a")
            assert os.stat(path).st_ino == os.fstat(fd).st_ino, "somebody else has another array of that name"
            module._detach()
            board[slot] += 1

    for turn in range(4):
        pids = [fork(functools.partial(work, slot)) for slot in range(4)]
        until(lambda turn=turn: min(board[slot] for slot in range(4)) > 25 * (turn + 1))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert [wait(pid) for pid in pids] == [-signal.SIGKILL] * 4


def test_one_removed_while_it_was_opened_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever locks a file that has lost its name meanwhile makes a new one."""
    kill(attached())
    path, acquire = module._path("a"), module.acquire

    def late(*arguments: Any) -> bool:
        monkeypatch.setattr(module, "acquire", acquire)
        assert module._remove_unused(path)
        return acquire(*arguments)

    monkeypatch.setattr(module, "acquire", late)
    assert module._open(path) is None
    assert SharedArray(3, np.int64, "a")[0] == 0
    assert os.path.exists(path)


def test_a_remover_that_is_stopped_holds_up_nobody_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stopped in the moment in which it removes a file is told of, in time, and waited for until then."""
    kill(attached())
    board, stop = Board(1), os.unlink

    def stopped(path: str) -> None:
        board[0] = 1
        os.kill(os.getpid(), signal.SIGSTOP)
        stop(path)

    monkeypatch.setattr(os, "unlink", stopped)
    remover = fork(clean_stale_shared_memory)
    monkeypatch.setattr(os, "unlink", stop)
    until(lambda: board[0])
    monkeypatch.setattr(module, "REACH_S", 0.05)
    with pytest.raises(interlock.Unavailable, match="being removed"):
        SharedArray(3, np.int64, "a")
    os.kill(remover, signal.SIGCONT)
    monkeypatch.setattr(module, "REACH_S", 20)
    assert SharedArray(3, np.int64, "a")[0] == 0
    assert wait(remover) == 0


def test_multiprocessing_knows_nothing_of_it(folder: Path) -> None:
    """Nothing of `multiprocessing` is replaced, its tracker is not started, and nobody warns at the end."""
    code = """
from multiprocessing import resource_tracker
register, unregister = resource_tracker.register, resource_tracker.unregister
a = SharedArray(3, np.int64, "a")
assert (resource_tracker.register, resource_tracker.unregister) == (register, unregister)
assert resource_tracker._resource_tracker._fd is None
"""
    ended = subprocess.run([sys.executable, "-Wall", "-c", program(code)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_threads_attach_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two threads that attach at a time, one's descriptor counts and the other one's is closed."""
    before = len(os.listdir("/proc/self/fd"))
    mapped = module._mapped

    def slow(fd: int, path: str) -> Any:
        monkeypatch.setattr(module, "_mapped", mapped)
        SharedArray(3, np.int64, "a")[0] = 7
        return mapped(fd, path)

    monkeypatch.setattr(module, "_mapped", slow)
    assert SharedArray(3, np.int64, "a")[0] == 7
    assert len(module._attached) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 2  # the lock's and the mapping's
