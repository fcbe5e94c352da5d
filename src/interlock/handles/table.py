"""Table: the resources this process has open for its handles, who waits for them, and when they are closed.

Why a child never touches what it inherited. After ``fork`` the child has copies of the parent's connections and files,
which share descriptors and locks with the originals: closing one may drop the parent's locks or write the parent's
buffers. So the child

1. begins an empty table before any of its own code runs;
2. adds one reference to the inherited table that nobody ever gives back. Without it the collector, or the end of the
   interpreter, would run the destructors of what is in it, and they close. Memory and descriptors of the copies stay
   with the child until it ends, and then the kernel frees them;
3. takes nothing out of a table that belongs to another process. Python ends the thread-locals of the threads that the
   fork left behind even before step 1, and their farewells find that the table is not theirs.

Why nothing hangs. Openers and closers run outside the lock. The lock is reentrant, and what it guards is sound when a
signal handler comes between any two lines. What runs in destructors takes no lock at all: it takes things out of the
table in single atomic steps. An opening that would wait for its own thread, directly or through others, is a
`Deadlock`.

Layer: above `errors` alone.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from interlock.errors import Deadlock, LimitExceeded

Place = tuple[str, int]  # a handle's key, and a thread's number: 0 where all threads share
KEY: Final = 0
THREAD: Final = 1

DEFAULT_LIMIT = 128  # half of macOS's 256 descriptors per process, the smallest customary bound
_AFTER_OTHERS = -100  # multiprocessing's finalizers of a negative priority run when a process has joined its children

logger = logging.getLogger("interlock")
_limit = DEFAULT_LIMIT
_keep_for_ever = ctypes.pythonapi.Py_IncRef
_keep_for_ever.argtypes, _keep_for_ever.restype = [ctypes.py_object], None


def limit(n: int) -> None:
    """Let at most `n` resources of all handles together be open in this process; 128 unless set.

    A thread that needs one more closes the least recently used resource that nobody refers to, which is told by its
    reference count: hold the resource itself, not only what you got from it. (The handles for sqlite, gff, hdf5, lmdb
    and fasta watch that too.) Takes effect at the next opening. A forked child inherits the limit; a spawned one starts
    with the default.
    """
    global _limit
    if n < 1:
        raise ValueError(f"a process needs at least one open resource, not {n!r}")
    _limit = n


def _no_parts(resource: Any) -> Iterable[object]:
    return ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to open and close a resource; `parts` are the objects that somebody may use in place of the resource."""

    opener: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    close: Callable[[Any], object] | None = None
    per_thread: bool = False
    parts: Callable[[Any], Iterable[object]] = _no_parts

    def __str__(self) -> str:
        told = [repr(arg) for arg in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"PerProcess({', '.join([getattr(self.opener, '__qualname__', repr(self.opener)), *told])})"


class Opened:
    """A resource, and how many references it has when nobody uses it: its own, in cycles and caches."""

    __slots__ = ("_at_rest", "keeper", "recipe", "resource")

    def __init__(self, recipe: Recipe, keeper: object) -> None:
        self.recipe = recipe
        self.keeper = keeper
        self.resource = recipe.opener(*recipe.args, **recipe.kwargs)  # counted before any variable refers to it
        self._at_rest = self._references()

    def _references(self) -> int:
        return sum(map(sys.getrefcount, (self.resource, *self.recipe.parts(self.resource))))

    def in_use(self) -> bool:
        """Whether anybody but the table refers to it."""
        return self._references() > self._at_rest

    def close(self) -> None:
        """Close it as its recipe says."""
        if self.recipe.close is not None:
            self.recipe.close(self.resource)
        elif hasattr(self.resource, "close"):
            self.resource.close()

    def dispose(self) -> None:
        """Close it where nobody waits for an answer."""
        try:
            self.close()
        except Exception:
            logger.warning("%s could not be closed", self.recipe, exc_info=True)


class _Opening:
    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class _Stay:
    """A thread's presence: it ends with the thread."""


class _Here(threading.local):
    """The calling thread's number. Unlike an ident, no later thread gets it again."""

    def __init__(self, table: Table) -> None:
        self.number = next(table.numbers)
        self.stay = _Stay()
        weakref.finalize(self.stay, table.dispose, THREAD, self.number).atexit = False


class Table:
    """What one process has open."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.numbers = itertools.count(1)
        self._here = _Here(self)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._open: OrderedDict[Place, Opened] = OrderedDict()  # least recently used first
        self._opening: dict[Place, _Opening] = {}
        self._waiting: dict[int, Place] = {}  # what the thread of this ident waits for
        self._ends_with_multiprocessing = False

    def get(self, key: str, recipe: Recipe, keeper: object) -> Any:
        """The resource of a recipe; the table refers to `keeper` as long as it is open."""
        place = (key, self._here.number if recipe.per_thread else 0)
        with self._lock:
            opened = self._open.get(place)
            if opened is not None:
                resource = opened.resource  # in use from here on: nobody closes it for want of room
                with suppress(KeyError):  # a signal handler or a destructor may have closed it on the line before
                    self._open.move_to_end(place)
                    if self._open[place] is opened:
                        return resource
        return self._open_at(place, recipe, keeper)

    def _open_at(self, place: Place, recipe: Recipe, keeper: object) -> Any:
        opening = _Opening()
        try:
            with self._lock:
                while place not in self._open and self._opening.setdefault(place, opening) is not opening:
                    self._await_opening(place, recipe)
                mine = self._opening.get(place) is opening
                idle = self._make_room() if mine else []
            while idle:
                idle.pop().dispose()
            if mine:
                return self._open_now(place, recipe, keeper)
        except Exception as error:
            error.add_note(f"in {recipe} of process {os.getpid()}")
            raise
        finally:
            with self._lock:
                if self._opening.get(place) is opening:
                    del self._opening[place]
                    self._changed.notify_all()
        return self.get(place[KEY], recipe, keeper)

    def _open_now(self, place: Place, recipe: Recipe, keeper: object) -> Any:
        self._end_with_multiprocessing()
        opened = Opened(recipe, keeper)
        resource = opened.resource
        with self._lock:
            self._open[place] = opened
        return resource

    def _await_opening(self, place: Place, recipe: Recipe) -> None:
        """Sleep until some opening ends, unless the one of `place` cannot end before this thread goes on."""
        me = threading.get_ident()
        ahead: Place | None = place
        for _ in range(len(self._waiting) + 1):
            opening = self._opening.get(ahead) if ahead else None
            if opening is None:
                break
            if opening.thread == me:
                raise Deadlock(f"{recipe} is asked for by an opener that has to end before it can be open")
            ahead = self._waiting.get(opening.thread)
        self._waiting[me] = place
        try:
            self._changed.wait()
        finally:
            self._waiting.pop(me, None)

    def _make_room(self) -> list[Opened]:
        """Take the least recently used idle resources that, with the openings under way, are beyond the limit."""
        excess = max(0, len(self._open) + len(self._opening) - _limit)
        idle = list(islice((item for item in list(self._open.items()) if not item[1].in_use()), excess))
        if len(idle) < excess:
            raise LimitExceeded(
                f"{len(self._open)} resources are open in process {self.pid}, the limit is {_limit}, and all are in "
                "use: let go of some, close handles that are done with, or raise it with interlock.handles.limit"
            )
        taken = [self._open.pop(place, None) for place, _ in idle]  # a signal handler may have closed some meanwhile
        return [opened for opened in taken if opened is not None]

    def take(self, part: int, value: object) -> list[Opened]:
        """Take out what a handle (`KEY`) or a thread (`THREAD`) has open. Runs in destructors: no lock."""
        if os.getpid() != self.pid:
            return []
        taken = [self._open.pop(place, None) for place in list(self._open) if place[part] == value]
        return [opened for opened in taken if opened is not None]

    def dispose(self, part: int, value: object) -> None:
        """Close what a handle or a thread has open."""
        for opened in self.take(part, value):
            opened.dispose()

    def close_all(self) -> None:
        """Close everything: the process ends."""
        while self._open and os.getpid() == self.pid:
            with suppress(KeyError):
                self._open.popitem()[1].dispose()

    def _end_with_multiprocessing(self) -> None:
        """Its forked children leave through ``os._exit``: `atexit` does not run there, its own finalizers do."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._ends_with_multiprocessing:
            self._ends_with_multiprocessing = True
            util.Finalize(None, self.close_all, exitpriority=_AFTER_OTHERS)


_table = Table()


def table() -> Table:
    """The table of this process."""
    return _table


def _begin_in_child() -> None:
    global _table
    _keep_for_ever(_table)
    _table = Table()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
atexit.register(lambda: _table.close_all())
