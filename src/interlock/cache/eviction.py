"""Eviction: a cache stays within its limit by removing what was not read for the longest time.

A process counts what it has written itself, and lists the directory when the limit may be passed: at its first write,
when its count says so, and at the latest after a sixteenth of the limit. So one process alone keeps the limit exactly;
with P processes that write at the same time the cache may exceed it by P times a sixteenth, or by P entries if those
are larger. When the limit is passed, entries go until nine tenths of it are left.

Last use is the access time of an entry's file, which readers set themselves, at most once a minute: mounts with
``noatime`` and ``relatime`` do not. Who may not set it, because the file is another user's, leaves it to the mount.

Layer: above `shards`.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from interlock.cache.shards import Shards
from interlock.errors import InterlockError
from interlock.objects import Lock

_SHARE = 16  # a process looks again after it has written this part of the limit
_LEFT = 0.9
FRESH_S = 60.0  # a last use that is no older need not be set again


def touch(path: str, state: os.stat_result) -> None:
    """Set the last use of an entry that was just read; to be done where `state` has one that is not fresh."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))


class Limit:
    """The limit of one cache, as kept by this process. `lock` keeps two processes from evicting twice as much."""

    def __init__(self, shards: Shards, limit_bytes: int, lock: Lock) -> None:
        self.bytes = limit_bytes
        self._shards = shards
        self._lock = lock
        self._counting = threading.Lock()
        self._total = limit_bytes  # unknown: as if the limit were reached
        self._written = 0

    def wrote(self, size: int) -> list[str]:
        """After a write of so many bytes: evict if need be. Returns the paths of what was evicted."""
        with self._counting:
            self._total += size
            self._written += size
            due = self._total > self.bytes or self._written * _SHARE >= self.bytes
        return self._enforce() if due else []

    def _enforce(self) -> list[str]:
        try:
            if self._lock.held:
                self._lock.release()  # which the store could not do the last time
            grant = self._lock.try_acquire()
            if grant is None:
                return []  # somebody else is at it
        except InterlockError:
            grant = None  # without the lock more may be evicted than needed, but nothing else goes wrong
        try:
            return self._evict()
        finally:
            if grant is not None:
                grant.release()

    def _evict(self) -> list[str]:
        files = sorted(self._shards.files(), key=lambda file: file.used)
        total = sum(file.size for file in files)
        evicted = []
        if total > self.bytes:
            for file in files:
                if total <= self.bytes * _LEFT:
                    break
                with suppress(OSError):
                    self._shards.remove(file.path)
                    evicted.append(file.path)
                    total -= file.size
            self._shards.record(f"evicted to stay within {self.bytes} bytes", evicted)
        self._shards.sweep()
        with self._counting:
            self._total, self._written = total, 0
        return evicted
