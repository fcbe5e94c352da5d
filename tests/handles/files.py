"""Real files for the handles: an annotation and a sequence of gffutils, and a few squares in each other format."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gffutils
import h5py
import lmdb
import numpy as np
import pyfaidx

from interlock import handles

COUNT = 400
SOME = range(0, COUNT, 37)


def make_sqlite(directory: Path) -> handles.PerProcess[Any]:
    """A table of the squares."""
    path = directory / "squares.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("create table squares (n integer primary key, square integer)")
    connection.executemany("insert into squares values (?, ?)", [(n, n * n) for n in range(COUNT)])
    connection.commit()
    connection.close()
    return handles.sqlite(path, read_only=True)


def make_gff(directory: Path) -> handles.PerProcess[Any]:
    """The database of a real gene of Drosophila."""
    path = directory / "gene.db"
    gffutils.create_db(gffutils.example_filename("FBgn0031208.gff"), str(path)).conn.close()
    return handles.gff(path)


def make_hdf5(directory: Path) -> handles.PerProcess[Any]:
    """The squares in chunks of which none is kept in memory."""
    path = directory / "squares.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("squares", data=np.arange(COUNT) ** 2, chunks=(10,), compression="gzip")
    return handles.hdf5(path, rdcc_nbytes=0)


def make_lmdb(directory: Path) -> handles.PerProcess[Any]:
    """The squares as text."""
    path = directory / "squares.lmdb"
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for n in range(COUNT):
            transaction.put(b"%d" % n, b"%d" % (n * n))
    return handles.lmdb(path)


def make_fasta(directory: Path) -> handles.PerProcess[Any]:
    """A real piece of a chromosome of Drosophila."""
    path = directory / "dm6-chr2L.fa"
    shutil.copy(gffutils.example_filename("dm6-chr2L.fa"), path)
    pyfaidx.Faidx(str(path)).close()
    return handles.fasta(path)


def read_sqlite(connection: sqlite3.Connection, n: int) -> object:
    """The square of a number."""
    return connection.execute("select square from squares where n = ?", (n,)).fetchone()[0]


def read_gff(database: Any, n: int) -> object:
    """One of the features, by its place in the order."""
    features = list(database.all_features(order_by=("start", "featuretype")))
    return str(features[n % len(features)])


def read_hdf5(file: Any, n: int) -> object:
    """The square of a number."""
    return int(file["squares"][n])


def read_lmdb(environment: Any, n: int) -> object:
    """The square of a number."""
    with environment.begin() as transaction:
        return int(transaction.get(b"%d" % n))


def read_fasta(sequences: Any, n: int) -> object:
    """Twenty bases."""
    return str(sequences["chr2L"][n : n + 20])


READERS: dict[str, Callable[[Any, int], object]] = {
    "sqlite": read_sqlite, "gff": read_gff, "hdf5": read_hdf5, "lmdb": read_lmdb, "fasta": read_fasta,
}  # fmt: skip
MAKERS: dict[str, Callable[[Path], handles.PerProcess[Any]]] = {
    "sqlite": make_sqlite, "gff": make_gff, "hdf5": make_hdf5, "lmdb": make_lmdb, "fasta": make_fasta,
}  # fmt: skip


class Values:
    """A data set as users write them: the handle is an attribute, opened where an item is read."""

    def __init__(self, kind: str, handle: handles.PerProcess[Any]) -> None:
        self.kind = kind
        self.handle = handle

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, n: int) -> object:
        return READERS[self.kind](self.handle.get(), n)


def check(values: Values, expected: list[object]) -> None:
    """What a worker does: all values right, and the handle opened here."""
    assert [values[n] for n in SOME] == expected
