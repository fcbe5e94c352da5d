"""Kept values: what this process has read of a cache before, so that reading it again is one look at the file.

Only values that nobody can change are kept: text, bytes, numbers and read-only arrays. A kept value is valid for as
long as its file has the same stamp. What is kept is bounded; the oldest goes first. A kept mapping holds its file's
space on the disk even if the file was removed since: mappings weigh a sixteenth of their size, and at least 64 kB.

Layer: under `cache`.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable
from typing import Any

from interlock.entries import Entry

WEIGHT = 64 * 1024 * 1024  # bytes of memory for the kept values of one cache
_OVERHEAD = 512  # bytes for the smallest
_MAPPING = 64 * 1024
_UNCHANGING = {str, bytes, int, float, bool, type(None)}


class Slot:
    """A kept value, and the file it was read from. `view` makes a new face of an array, whose shape can be changed."""

    __slots__ = ("path", "seconds", "stamp", "value", "view", "weight")

    def __init__(self, path: str, entry: Entry, value: Any) -> None:
        self.path = path
        self.stamp = entry.stamp
        self.seconds = entry.note.seconds
        self.value = value
        self.view: Callable[[], Any] | None = None if type(value) in _UNCHANGING else value.view
        length = entry.note.length
        self.weight = max(length // 16, _MAPPING) if isinstance(entry.payload, mmap.mmap) else length + _OVERHEAD


class Kept:
    """The kept values of one cache, by whatever it knows its keys by."""

    def __init__(self) -> None:
        self._slots: dict[Any, Slot] = {}
        self._weight = 0
        self._changing = threading.Lock()
        self.find = self._slots.get

    def keep(self, index: Any, path: str, entry: Entry, value: Any) -> Any:
        """Keep a value, if it is one that nobody can change; returns it as it may be given away."""
        kind = type(value)
        if kind not in _UNCHANGING and not (kind.__module__ == "numpy" and kind is sys.modules["numpy"].ndarray):
            return value
        slot = Slot(path, entry, value)
        with self._changing:
            self._drop(index)
            self._slots[index] = slot
            self._weight += slot.weight
            while self._weight > WEIGHT:
                self._drop(next(iter(self._slots)))
        return value if slot.view is None else slot.view()

    def drop(self, index: Any) -> None:
        """Forget a value."""
        with self._changing:
            self._drop(index)

    def clear(self) -> None:
        """Forget all."""
        with self._changing:
            self._slots.clear()
            self._weight = 0

    def _drop(self, index: Any) -> None:
        slot = self._slots.pop(index, None)
        if slot is not None:
            self._weight -= slot.weight
