"""Wake-up words: sleep on a word of a shared mapped file until somebody on this host changes it.

The protocol needs no atomic arithmetic. The waker first commits the state, then changes the word, then wakes. The
waiter first reads the word, then reads the state, then sleeps while the word is unchanged. So a commit that the waiter
has not seen changes the word after the waiter read it, and the sleep ends at once. Two wakers that write the same new
value lose nothing: the waiter compares with the value from before both commits.

The core in C sleeps and wakes where it is built. Else the call goes through `ctypes`, loaded at the first sleep or
wake and not at import; and where the system has no futex, `Words.sleep` naps briefly and `wake` only changes the word.
Source: futex(2).
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable
from zlib import crc32

try:
    from interlock import _native
except ImportError:
    _native = None  # type: ignore[assignment]

COUNT = 4096
SIZE = COUNT * 4
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_SYSCALL = {
    "x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221, "s390x": 238,
}  # fmt: skip
_NAP_S = 0.0005


def slot(session: str, serial: int) -> int:
    """The word of a ticket."""
    return (crc32(session.encode()) + serial) % COUNT


class Words:
    """The words of one mapped file; tickets share words by hash, so a wake-up may be for somebody else."""

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < SIZE:
            raise ValueError("the file of wake-up words is too short")
        self._map = mmap.mmap(fd, SIZE)
        self._words = memoryview(self._map).cast("I")
        self._futex: Callable[[int, int, int, float | None], None] | None = None
        self._loaded = False

    def read(self, index: int) -> int:
        """The word's present value."""
        return self._words[index]

    def wake(self, index: int) -> None:
        """Change the word and wake everybody on this host who sleeps on it."""
        if _native is not None:
            _native.unpark(self._map, index)
            return
        self._words[index] = (self._words[index] + 1) & 0xFFFFFFFF
        futex = self._load()
        if futex is not None:
            futex(index, _FUTEX_WAKE, 0x7FFFFFFF, None)

    def sleep(self, index: int, seen: int, timeout: float) -> None:
        """Sleep while the word is `seen`, at most `timeout` seconds; may return early."""
        if _native is not None:
            _native.park(self._map, index, seen, timeout)
            return
        futex = self._load()
        if futex is not None:
            futex(index, _FUTEX_WAIT, seen, timeout)
            return
        end = time.monotonic() + timeout
        while self._words[index] == seen and time.monotonic() < end:
            time.sleep(_NAP_S)

    def _load(self) -> Callable[[int, int, int, float | None], None] | None:
        if not self._loaded:
            self._futex = _futex_call(self._map)
            self._loaded = True
        return self._futex


def _futex_call(words: mmap.mmap) -> Callable[[int, int, int, float | None], None] | None:
    """The system call bound to the mapping's address, or None where there is none."""
    number = _SYSCALL.get(os.uname().machine) if sys.platform == "linux" else None
    if number is None:
        return None
    import ctypes

    class Timespec(ctypes.Structure):
        _fields_ = (("sec", ctypes.c_int64), ("nsec", ctypes.c_int64))

    syscall = ctypes.CDLL(None).syscall
    syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p]
    syscall.restype = ctypes.c_long
    base = ctypes.addressof(ctypes.c_char.from_buffer(words))

    def futex(index: int, operation: int, value: int, timeout: float | None) -> None:
        limit = None
        if timeout is not None:
            limit = ctypes.byref(Timespec(int(timeout), int(timeout % 1 * 1e9)))
        syscall(number, base + 4 * index, operation, value, limit)

    return futex
