"""The caches that are measured beside ours, all with the same face: arrays by text keys, in one directory.

Each is used as its manual suggests. None of them syncs to disk, as ours does not: lmdb is told not to. The bare system
calls are what a file for each entry costs at the very least, and neither checks, finds nor describes anything.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from peers import FILE, Peer, installed

import interlock

LIMIT, NUMPY, NUMPY_MAPPED = "bare system calls", "numpy save/load", "numpy load, mapped"
DISKCACHE, LMDB, JOBLIB, JOBLIB_MAPPED = "diskcache", "lmdb", "joblib", "joblib mapped"
_MAPPED_FROM = 256 * 1024  # bytes: from about there mapping is cheaper than reading
_IN_USE = 1000  # small entries of a cache that has been in use for a while: its folders are there
_LARGEST_MAP = 1 << 30  # bytes of an lmdb database

Get = Callable[[str], Any]


class Values(NamedTuple):
    """A process's face of a cache: `put` stores an array by a new key, `reopen` makes a `get` for which nothing that
    was read before is kept open. Where `get` never keeps anything, `reopen` gives the same one again."""

    put: Callable[[str, Any], Any]
    reopen: Callable[[], Get]


def all_caches() -> list[Peer]:
    """Every cache that can be measured here; each attaches as `Values`."""
    return installed(
        (
            Peer(FILE, _use, _interlock),
            Peer(LIMIT, _make_folders, _system_calls),
            Peer(DISKCACHE, str, _diskcache),
            Peer(LMDB, str, _lmdb),
            Peer(NUMPY, str, lambda directory: _numpy(directory, None)),
            Peer(NUMPY_MAPPED, str, lambda directory: _numpy(directory, "r")),
            Peer(JOBLIB, str, lambda directory: _joblib(directory, None)),
            Peer(JOBLIB_MAPPED, str, lambda directory: _joblib(directory, "r")),
        )
    )


def _interlock(directory: str) -> Values:
    session = interlock.connect(os.path.join(directory, "locks"))

    def opened() -> interlock.Cache:
        return session.cache("bench", directory=os.path.join(directory, "entries"))

    return Values(opened().put, lambda: opened().get)


def _use(directory: str) -> str:
    with interlock.connect(os.path.join(directory, "locks")) as session:
        cache = session.cache("bench", directory=os.path.join(directory, "entries"))
        for number in range(_IN_USE):
            cache.put(number, b"")
    return directory


def _system_calls(directory: str) -> Values:
    """What comes back is of no use but to be thrown away: the file's state, its bytes or a mapping of them."""

    def path_of(key: str) -> str:
        digest = blake2b(key.encode(), digest_size=16).hexdigest()
        return f"{directory}/{digest[:2]}/{digest}"

    def put(key: str, array: Any) -> None:
        path = path_of(key)
        fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(fd, array)
        os.close(fd)
        os.rename(f"{path}.tmp", path)

    def reopen() -> Get:
        paths: dict[str, str] = {}

        def get(key: str) -> Any:
            path = paths.get(key)
            if path is not None:
                return os.stat(path)
            path = paths[key] = path_of(key)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(fd).st_size
            if size < _MAPPED_FROM:
                content: Any = os.read(fd, size)
            else:
                content = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
            os.close(fd)
            return content

        return get

    return Values(put, reopen)


def _make_folders(directory: str) -> str:
    for number in range(256):
        os.mkdir(f"{directory}/{number:02x}")
    return directory


def _diskcache(directory: str) -> Values:
    import diskcache

    cache = diskcache.Cache(directory)
    return Values(cache.set, lambda: cache.get)


def _lmdb(directory: str) -> Values:
    import lmdb

    environment = lmdb.open(directory, map_size=_LARGEST_MAP, sync=False)

    def put(key: str, array: Any) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), array.tobytes())

    def get(key: str) -> Any:
        with environment.begin() as transaction:
            return np.frombuffer(transaction.get(key.encode()), np.uint8)

    return Values(put, lambda: get)


def _numpy(directory: str, mmap_mode: Any) -> Values:
    def put(key: str, array: Any) -> None:
        np.save(f"{directory}/{key}.npy", array)

    def get(key: str) -> Any:
        return np.load(f"{directory}/{key}.npy", mmap_mode)

    return Values(put, lambda: get)


def _joblib(directory: str, mmap_mode: Any) -> Values:
    """joblib stores what a function returns: here, the array that is put."""
    import joblib

    compute = joblib.Memory(directory, mmap_mode=mmap_mode, verbose=0).cache(_array_for)

    def put(key: str, array: Any) -> None:
        _to_put.append(array)
        compute(key)

    return Values(put, lambda: compute)


_to_put: list[Any] = []


def _array_for(key: str) -> Any:
    return _to_put.pop()  # a key that was not put raises
