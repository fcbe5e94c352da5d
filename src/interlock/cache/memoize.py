"""Memoized functions: a call is found by the function's name, its arguments and a version, and by nothing else.

The arguments are bound to their names and defaults first, so that ``f(1)``, ``f(n=1)`` and ``f(1, metric="cosine")``
are one call if ``"cosine"`` is the default. The function's code is not part of the key: whoever changes what it
computes changes the version. What a key cannot show is refused when the function is decorated: a lambda, which has no
name of its own, and variables of a function around it.

Layer: above `cache`.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlock.keys import canonical

if TYPE_CHECKING:
    from interlock.cache.cache import Cache


@dataclass(frozen=True)
class Call:
    """The key of a call. The version comes last, so that all versions of a call begin alike."""

    function: str
    arguments: dict[str, Any]
    version: Any


class Memoized:
    """A function whose results are in a cache; made by `Cache.memoize`. Pickles by its name, as functions do.

    A function of a module is known by the module's name, one of a script by the script's path. In an interactive
    session it is known by its own name only: give such functions a cache of their own.
    """

    def __init__(self, cache: Cache, fn: Callable[..., Any], version: Any) -> None:
        canonical(version)
        self._cache = cache
        self._function = _name(fn)
        self._signature = inspect.signature(fn)
        self._version = version
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the call; computed once, see `Cache.get_or_compute`. Raises `TypeError` for arguments that
        cannot be part of a key."""
        call = self.key(*args, **kwargs)
        return self._cache.get_or_compute(call, lambda: self.__wrapped__(*args, **kwargs))

    def key(self, *args: Any, **kwargs: Any) -> Call:
        """The key of a call, for the methods of the cache."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return Call(self._function, bound.arguments, self._version)

    def forget(self, *args: Any, **kwargs: Any) -> bool:
        """Remove the result of a call; whether there was one."""
        return self._cache.delete(self.key(*args, **kwargs))

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """Why a call will be, or was, computed anew. Looks through the whole cache for other versions of it."""
        call = self.key(*args, **kwargs)
        told = self._cache.explain(call)
        if not told.startswith("missing"):
            return told
        text = canonical(call)
        prefix = text[: text.rindex(f"version={canonical(self._version)}")]
        others = [listed for listed in self._cache.listing() if listed.note.key.startswith(prefix)]
        words = [f"{one.note.key[len(prefix) : -1]}, stored by {one.note.by}" for one in others]
        return f"{told}; there is {'; '.join(words)}" if words else told

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method it is bound to its object, which then is a part of the key."""
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str:
        return self.__qualname__

    __wrapped__: Callable[..., Any]
    __qualname__: str


def _name(fn: Callable[..., Any]) -> str:
    """The name of a function, if its results depend on nothing but its arguments, as far as can be seen."""
    if not inspect.isfunction(fn) or fn.__name__ == "<lambda>":
        raise TypeError(f"{fn!r} cannot be memoized, because it has no name of its own: write it as a function")
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{fn.__qualname__} cannot be memoized, because it returns a coroutine or generator")
    if fn.__code__.co_freevars:
        raise TypeError(
            f"{fn.__qualname__} cannot be memoized, because it uses {', '.join(fn.__code__.co_freevars)} of the "
            "function around it, which its key would not show: pass what it uses as arguments"
        )
    module = fn.__module__
    if module in ("__main__", "__mp_main__"):
        script = getattr(sys.modules[module], "__file__", None)
        module = os.path.realpath(script) if script else "__main__"
    return f"{module}:{fn.__qualname__}"
