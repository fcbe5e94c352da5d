"""Handles with the settings that many readers of one file need, for SQLite, gffutils, HDF5, LMDB and FASTA.

Each function takes the path and the options of the library's own way to open it, and returns a `PerProcess`. Paths are
made absolute, so that a worker in another directory opens the same file. The library is imported when the resource is
opened. An option that is given always wins over the setting here.

Layer: above `handle`.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from interlock.handles.handle import PerProcess, handle_from
from interlock.handles.table import Recipe

if TYPE_CHECKING:
    import sqlite3

StrPath = str | os.PathLike[str]


def sqlite(path: StrPath, *, read_only: bool = False, **options: Any) -> PerProcess[sqlite3.Connection]:
    """Connections to an SQLite database, one for each thread.

    A connection has one transaction, so threads that shared one would commit each other's work. The check that it stays
    in its thread is off only because another one may have to close it.

    Not covered, because SQLite itself is not made for it: a fork while other threads are inside SQLite, whose locks the
    child then finds taken for ever; and a fork in the middle of a read of the same database, after which the child
    believes that it holds the parent's lock, and reads without one. Fork between transactions, or use spawn.

    Args: read_only: open what exists and refuse to write. options: of `sqlite3.connect`.
    """
    place = path if options.get("uri") or path == ":memory:" else _absolute(path)
    return PerProcess(_open_sqlite, place, per_thread=True, read_only=read_only, **options)


def gff(path: StrPath, *, read_only: bool = True, **options: Any) -> PerProcess[Any]:
    """`gffutils.FeatureDB` objects on a database that exists, one for each thread; see `sqlite`.

    Args: options: of `gffutils.FeatureDB`.
    """
    settings = {"read_only": read_only, **options}
    return handle_from(Recipe(_open_gff, (_absolute(path),), settings, _close_gff, True, _connection))


def hdf5(path: StrPath, mode: str = "r", **options: Any) -> PerProcess[Any]:
    """An `h5py.File` for each process, for reading; h5py lets its threads in one at a time.

    It is closed when the last of the groups and data sets that were got from it is gone, never under one of them.
    A child that opens a file its parent has open reads through the parent's descriptor, which is right because HDF5
    reads at absolute offsets. File locking is left at HDF5's default: a shared lock where the file system has locks,
    so that a file that is being written is refused. Set ``locking=False`` for a mount whose locks fail.

    Args:   options: of `h5py.File`, such as ``swmr`` or ``rdcc_nbytes``.
    Raises: ValueError: another mode than ``r``. A child of ``fork`` that ends in order writes what the parent had not
            yet written of its writable file.
    """
    if mode != "r":
        raise ValueError(f"an HDF5 file is shared for reading only: mode 'r', not {mode!r}; open it yourself to write")
    return PerProcess(_open_hdf5, _absolute(path), close=_let_go, **options)


def lmdb(path: StrPath, **options: Any) -> PerProcess[Any]:
    """An `lmdb.Environment` for each process, read-only; LMDB forbids a second one, so equal calls give one handle.

    ``lock`` stays on: a reader that is not in the lock table may see its pages reused by a writer. Turn it off for data
    that nobody writes any more and that you may not write beside. The table is made for 1,024 readers at once instead
    of 126, if it is made here, and entries of killed readers are given back. ``readahead`` is off: the records of a
    data set are read in random order, and the pages in between would push out those that are needed again.

    Needs py-lmdb below 2 or from 3 on where a parent has the same environment open when it forks: those in between
    take the inherited one for the child's own and refuse.

    Args: options: of `lmdb.open`.
    """
    place = _absolute(path)
    settings = {"readonly": True, "readahead": False, "max_readers": 1024, **options}
    return handle_from(Recipe(_open_lmdb, (place,), settings), f"lmdb {place} {sorted(settings.items())}")


def fasta(path: StrPath, **options: Any) -> PerProcess[Any]:
    """`pyfaidx.Fasta` objects, one for each thread.

    pyfaidx moves one file position about, and locks it for sequences but not for long names and not for its read-ahead
    buffer. An index is read, never built: many processes that find none would each write it under the others' eyes.
    Build it once with ``pyfaidx.Faidx(path)``, or let `interlock.recipes.genome` do so.

    Args:   options: of `pyfaidx.Fasta`.
    Raises: pyfaidx.IndexNotFoundError, by `get`: there is no index.
    """
    settings = {"build_index": False, "rebuild": False, **options}
    return handle_from(Recipe(_open_fasta, (_absolute(path),), settings, None, True, _records))


def _absolute(path: StrPath) -> str:
    return os.path.abspath(os.fsdecode(path))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{error}; interlock opens this file with {name}: pip install {name}", name=name) from error


def _open_sqlite(path: StrPath, *, read_only: bool, **options: Any) -> sqlite3.Connection:
    import sqlite3

    if read_only:
        path, options = f"file:{quote(os.fsencode(path))}?mode=ro", {**options, "uri": True}
    connection: sqlite3.Connection = sqlite3.connect(path, **{"check_same_thread": False, **options})
    return connection


def _open_gff(path: str, *, read_only: bool, **options: Any) -> Any:
    gffutils = _module("gffutils")
    if not os.path.exists(path):
        raise FileNotFoundError(f"no gffutils database at {path}: make it with gffutils.create_db")
    connection = _open_sqlite(path, read_only=read_only)
    try:
        database = gffutils.FeatureDB(connection, **options)
    except BaseException:
        connection.close()
        raise
    database.dbfn = path  # what it would be, had gffutils connected
    return database


def _close_gff(database: Any) -> None:
    database.conn.close()


def _connection(database: Any) -> Iterable[object]:
    """Cursors refer to the connection and not to the database."""
    return (database.conn,)


def _open_hdf5(path: str, **options: Any) -> Any:
    return _module("h5py").File(path, "r", **options)


def _let_go(file: Any) -> None:
    """Closing an `h5py.File` would invalidate what others got from it; letting go closes it after them."""


def _open_lmdb(path: str, **options: Any) -> Any:
    library = _module("lmdb")
    _disown_at_fork()
    environment = library.open(path, **options)
    environment.reader_check()
    return environment


@functools.cache
def _disown_at_fork() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_count_own_environments)


def _count_own_environments() -> None:
    """Let py-lmdb see in a child that the environments of its parent are not open in this process.

    From version 3 on it refuses to open files that the process has open already, by keys that it makes of their inodes,
    and forgets none at fork. Keys that carry the process tell the child's own environments from inherited ones.
    """
    identity: Any = sys.modules.get("lmdb._envid")
    if identity is not None:
        identity.env_keys = functools.partial(_keys_of_process, os.getpid(), identity.env_keys)


def _keys_of_process(pid: int, keys: Callable[..., tuple[object, ...]], path: Any, subdir: Any) -> tuple[object, ...]:
    return tuple((pid, key) for key in keys(path, subdir))


def _open_fasta(path: str, **options: Any) -> Any:
    return _module("pyfaidx").Fasta(path, **options)


def _records(sequences: Any) -> Iterable[object]:
    """A record is made once and reads through its `Fasta`, which does not see who uses it."""
    return list(sequences.records.values())
