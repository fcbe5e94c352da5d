"""PerProcess: a resource that every process, or every thread, opens for itself at its first use.

A handle is a recipe and a key. Copies by fork or pickle have the same key, and `table` knows under it what the process
they are in has open.

Layer: above `table`.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, Generic, TypeVar

from interlock.handles.table import KEY, Recipe, table

R = TypeVar("R")

_known: weakref.WeakValueDictionary[str, PerProcess[Any]] = weakref.WeakValueDictionary()
_joining = threading.RLock()


class PerProcess(Generic[R]):
    """A resource opened once in each process, or in each thread, at its first use.

    Copies of a handle are one handle: in every process the first `get` opens, the others find it open. So it may be
    pickled into each task of a pool. After ``fork`` the child opens its own and leaves the inherited resource alone.
    A resource is closed when the process exits in order (in `multiprocessing` when the child's target has returned),
    when its thread ends (`per_thread`), by `close`, by `handles.limit`, and with the last reference to a handle that
    was made in this process, unless the resource is still referred to: then it is its user's to close.

    Args:    opener: makes the resource from `args` and `kwargs`; if the handle is to be pickled, a function or class at
             the top of a module.
             close: function of the resource; None takes its own method ``close``, if it has one. It may be called by
             another thread than the one that opened.
             per_thread: a resource for each thread, for what belongs to one thread at a time.
    """

    def __init__(
        self,
        opener: Callable[..., R],
        /,
        *args: Any,
        close: Callable[[R], object] | None = None,
        per_thread: bool = False,
        **kwargs: Any,
    ) -> None:
        self._begin(Recipe(opener, args, kwargs, close, per_thread), _new_key())

    def _begin(self, recipe: Recipe, key: str) -> None:
        self._recipe = recipe
        self._key = key
        self._arrived = False
        _known[key] = self
        weakref.finalize(self, _let_go, key).atexit = False

    def __repr__(self) -> str:
        return str(self._recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        for role, function in (("opener", self._recipe.opener), ("close", self._recipe.close)):
            if isinstance(function, FunctionType | type) and not _importable(function):
                raise pickle.PicklingError(
                    f"{self!r} cannot be pickled: another process does not find its {role} under the name "
                    f"{function.__module__}.{function.__qualname__}; define it at the top of a module"
                )
        return _rejoin, (self._recipe, self._key)

    def __enter__(self) -> PerProcess[R]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def get(self) -> R:
        """The resource of this process, or of this thread; opened by the first caller while the others wait.

        Raises: whatever the opener raises; nothing is kept, and the next call tries again.
                LimitExceeded: as many resources as `handles.limit` allows are open, all of them in use (definite).
                Deadlock: the opener needs its own result, or two openers need each other's (definite).
        Cost:   about a microsecond when it is open.
        """
        resource: R = table().get(self._key, self._recipe, self if self._arrived else None)
        return resource

    def close(self) -> None:
        """Close what this handle has open in this process, in all threads. A later `get` opens again.

        Raises: what the closing raised, once everything else is closed.
        """
        errors = []
        for opened in table().take(KEY, self._key):
            try:
                opened.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0] if len(errors) == 1 else ExceptionGroup(f"closing {self!r}", errors)


def handle_from(recipe: Recipe, key: str | None = None) -> PerProcess[Any]:
    """The handle of this key in this process; a new one if there is none."""
    with _joining:
        handle = _known.get(key) if key else None
        if handle is None:
            handle = PerProcess.__new__(PerProcess)
            handle._begin(recipe, key or _new_key())
        return handle


def _rejoin(recipe: Recipe, key: str) -> PerProcess[Any]:
    handle = handle_from(recipe, key)
    # A worker drops its copy with every task. What it opened stays, and keeps the handle for the next task's copy.
    handle._arrived = True
    return handle


def _let_go(key: str) -> None:
    for opened in table().take(KEY, key):
        if not opened.in_use():
            opened.dispose()


def _new_key() -> str:
    return os.urandom(8).hex()


def _importable(function: Callable[..., Any]) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _renew_lock() -> None:
    global _joining
    _joining = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
