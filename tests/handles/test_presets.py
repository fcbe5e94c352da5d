"""Each preset on real files: one handle shared across fork, spawn, threads and the workers of a DataLoader."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import h5py
import lmdb
import pytest
import torch.utils.data

from handles.files import COUNT, MAKERS, SOME, Values, check
from interlock import handles
from interlock.errors import LimitExceeded
from processes import finish, run, start


def check_twice(values: Values, expected: list[object]) -> None:
    """A child that has children of its own."""
    check(values, expected)
    run(check, values, expected)
    check(values, expected)


def descriptors(path: str) -> int:
    """How many descriptors of this process lead to files of that name, the lock files aside."""
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += os.readlink(entry.path).endswith(path)
        except FileNotFoundError:  # that of the listing itself
            pass
    return found


def file_of(values: Values) -> str:
    """The one file behind a handle."""
    path = str(values.handle._recipe.args[0])
    return path + "/data.mdb" if os.path.isdir(path) else path


def test_forked_children_and_grandchildren_read_what_the_parent_reads(values: Values) -> None:
    """The parent holds its resource open and in hand all the while, and reads on afterwards."""
    resource = values.handle.get()
    expected = [values[n] for n in SOME]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=check_twice, args=(values, expected)) for _ in range(3)]
    for child in children:
        child.start()
    check(values, expected)
    finish(*children)
    check(values, expected)
    assert values.handle.get() is resource


def test_a_spawned_process_opens_its_own(values: Values) -> None:
    """The handle goes through pickle while it is open, with all its settings."""
    expected = [values[n] for n in SOME]
    child = multiprocessing.get_context("spawn").Process(target=check, args=(values, expected))
    child.start()
    finish(child)
    check(values, expected)


def test_eight_threads_read_at_once(values: Values) -> None:
    """Every thread gets every value right while the others read."""
    expected = [values[n] for n in SOME]
    start = Barrier(8)

    def read() -> list[list[object]]:
        start.wait()
        return [[values[n] for n in SOME] for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        results = [future.result() for future in [pool.submit(read) for _ in range(8)]]
    assert results == [[expected] * 5] * 8


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_data_loader_read_it(values: Values, method: str) -> None:
    """Two workers, started by fork and by spawn, while the parent has the resource open."""
    expected = [values[n] for n in range(0, COUNT, 4)]
    data = torch.utils.data.Subset(values, range(0, COUNT, 4))  # type: ignore[arg-type]
    loader = torch.utils.data.DataLoader(data, num_workers=2, batch_size=None, multiprocessing_context=method)
    assert list(loader) == expected
    assert [values[n] for n in range(0, COUNT, 4)] == expected


def test_nothing_leaks(values: Values) -> None:
    """Threads that have ended and handles that were closed leave no descriptor behind."""
    path = file_of(values)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(values.__getitem__, SOME))
        assert values[0] is not None
        assert descriptors(path) == 1
        values.handle.close()
        gc.collect()
        assert descriptors(path) == 0


PARTS: dict[str, Callable[[Any], Any]] = {
    "sqlite": lambda connection: connection.execute("select square from squares order by n"),
    "gff": lambda database: database.execute("select id from features"),
    "hdf5": lambda file: file["squares"],
    "lmdb": lambda environment: environment.begin(),
    "fasta": lambda sequences: sequences["chr2L"],
}
USES: dict[str, Callable[[Any], Any]] = {
    "sqlite": lambda cursor: cursor.fetchone()[0] == 0,
    "gff": lambda cursor: cursor.fetchone()[0],
    "hdf5": lambda squares: squares[3] == 9,
    "lmdb": lambda transaction: transaction.get(b"3") == b"9",
    "fasta": lambda record: len(str(record[:10])) == 10,
}


def test_what_came_from_a_resource_keeps_it_open(values: Values) -> None:
    """A cursor, a data set, a transaction, a record: under none of them is the resource closed to make room."""
    part = PARTS[values.kind](values.handle.get())
    handles.limit(1)
    with suppress(LimitExceeded):
        handles.PerProcess(dict).get()
    assert USES[values.kind](part)


def test_another_thread_may_close_it(values: Values) -> None:
    """`close` closes what a living thread has opened, and the thread opens it again when it needs it."""
    opened, closed = Event(), Event()

    def read() -> tuple[object, object]:
        before = values[3]
        opened.set()
        closed.wait()
        return before, values[3]

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(read)
        opened.wait()
        values.handle.close()
        assert descriptors(file_of(values)) == 0
        closed.set()
        before, after = future.result()
    assert before == after


def test_idle_resources_of_every_kind_are_closed_to_make_room(tmp_path: Path) -> None:
    """Nothing that a preset leaves in a resource makes it look as if it were in use."""
    paths = []
    for kind, make in MAKERS.items():
        values = Values(kind, make(tmp_path))
        assert values[3] is not None
        paths.append((file_of(values), values))
    assert [descriptors(path) for path, _ in paths] == [1] * 5
    handles.limit(1)
    handles.PerProcess(dict).get()
    gc.collect()
    assert [descriptors(path) for path, _ in paths] == [0] * 5


def test_the_libraries_are_loaded_when_something_is_opened() -> None:
    """Handles are made without them."""
    program = (
        "import sys; from interlock import handles;"
        "made = handles.gff('a'), handles.hdf5('a'), handles.lmdb('a'), handles.fasta('a'), handles.sqlite('a');"
        "print({'gffutils', 'h5py', 'lmdb', 'pyfaidx', 'sqlite3', 'numpy'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "set()"


@pytest.mark.parametrize(
    ("handle", "package"),
    [
        (handles.gff("absent"), "gffutils"),
        (handles.hdf5("absent"), "h5py"),
        (handles.lmdb("absent"), "lmdb"),
        (handles.fasta("absent"), "pyfaidx"),
    ],
)
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    handle: handles.PerProcess[Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes from `get` and says what to type."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        handle.get()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Neither reader makes an empty database of its own; a later `get` finds the file that came meanwhile."""
    for make in (lambda path: handles.sqlite(path, read_only=True), handles.gff):
        with pytest.raises((sqlite3.OperationalError, FileNotFoundError)) as caught:
            make(tmp_path / "absent.db").get()
        assert "absent.db" in "\n".join([str(caught.value), *caught.value.__notes__])
        assert not (tmp_path / "absent.db").exists()


def test_a_read_only_database_refuses_to_be_written(tmp_path: Path) -> None:
    """`read_only` goes down to SQLite, and a path with characters of a URI is the path it is."""
    path = tmp_path / "a?b#c%d.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (x)")
    connection.close()
    with handles.sqlite(path, read_only=True) as handle, pytest.raises(sqlite3.OperationalError, match="readonly"):
        handle.get().execute("insert into t values (1)")
    with handles.sqlite(path) as handle:
        assert handle.get().execute("insert into t values (1)").rowcount == 1


def test_a_writable_hdf5_file_is_refused(tmp_path: Path) -> None:
    """Nothing is opened: its unwritten changes would be written by every child."""
    with pytest.raises(ValueError, match="reading only"):
        handles.hdf5(tmp_path / "a.h5", "r+")


def test_equal_lmdb_handles_are_one(tmp_path: Path) -> None:
    """Two data sets on one environment share it, as LMDB demands."""
    first, second = MAKERS["lmdb"](tmp_path), handles.lmdb(tmp_path / "squares.lmdb")
    assert first.get() is second.get()
    assert handles.lmdb(tmp_path / "squares.lmdb", lock=False) is not first


def refuses_a_second(path: str) -> None:
    """In a child: py-lmdb still guards against opening an environment twice."""
    handle = handles.lmdb(path)
    assert handle.get().begin().get(b"3") == b"9"
    with pytest.raises(lmdb.Error, match="already open in this process"):
        lmdb.open(path, readonly=True)


def test_a_child_keeps_the_guard_of_lmdb(tmp_path: Path) -> None:
    """A child may open what its parent has open, and still not open it twice itself."""
    handle = MAKERS["lmdb"](tmp_path)
    assert handle.get() is not None
    run(refuses_a_second, str(tmp_path / "squares.lmdb"))


def dies_reading(path: str) -> None:
    """In a child: a reader that ends without a word."""
    _transaction = handles.lmdb(path).get().begin()
    os.kill(os.getpid(), signal.SIGKILL)


def opens(path: str) -> None:
    """In a child: the next reader."""
    assert handles.lmdb(path).get() is not None


def test_the_entries_of_killed_lmdb_readers_are_given_back(tmp_path: Path) -> None:
    """Otherwise the table would be full after enough of them, for LMDB itself forgets nobody while it is in use."""
    handle, path = MAKERS["lmdb"](tmp_path), str(tmp_path / "squares.lmdb")
    environment = handle.get()
    reader = start(dies_reading, path)
    reader.join()
    assert str(reader.pid) in environment.readers()
    run(opens, path)
    assert str(reader.pid) not in environment.readers()


def test_a_fasta_without_an_index_is_refused(tmp_path: Path) -> None:
    """A reader never writes an index under the eyes of the others."""
    import pyfaidx

    path = tmp_path / "a.fa"
    path.write_text(">a\nACGT\n")
    with pytest.raises(pyfaidx.IndexNotFoundError):
        handles.fasta(path).get()
    assert not (tmp_path / "a.fa.fai").exists()


def test_an_open_hdf5_file_outlives_its_handle_under_a_reader(tmp_path: Path) -> None:
    """A data set in hand is readable after `close`, and the file is closed when it is gone."""
    handle = MAKERS["hdf5"](tmp_path)
    squares = handle.get()["squares"]
    handle.close()
    assert squares[3] == 9
    del squares
    assert descriptors("squares.h5") == 0
    assert h5py.File(tmp_path / "squares.h5", "r+").mode == "r+"
