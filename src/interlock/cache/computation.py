"""Computation: one missing value of a cache, computed by one participant for all who ask for it.

The session's `Once` chooses who computes. Its result is only a verdict, small enough for a record: the value is stored;
it could not be stored, so that everybody computes it himself; or the error. The value itself is read from its entry.

Layer: under `cache`, above `objects`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import codecs, values
from interlock.codecs import Encoded
from interlock.errors import Deadlock, InterlockError, LimitExceeded, Unavailable
from interlock.objects import Once

if TYPE_CHECKING:
    from interlock.cache.cache import Cache

MISSING: Any = object()
_STORED, _NOT_STORED = "stored", "not stored"


class Failure(NamedTuple):
    """An error that is kept in place of a value, as text."""

    text: str


class Computation:
    """One call of `Cache.get_or_compute` that did not find its value. `slot` is how the cache knows the key."""

    def __init__(self, cache: Cache, slot: Any, text: str, fn: Callable[[], Any], keep_errors: bool) -> None:
        self._cache = cache
        self._slot = slot
        self._text = text
        self._fn = fn
        self._keep_errors = keep_errors
        self._done = False
        self._value: Any = MISSING
        self._error: Exception | None = None

    def run(self, timeout: float | None) -> Any:
        """The value, or a `Failure`, or the error; see `Cache.get_or_compute`."""
        mark = threading.get_ident(), self._text
        if mark in self._cache.computing:
            raise Deadlock(
                f"the function that computes {self._text[:200]} of {self._cache!r} asks for it itself",
                name=self._cache.name,
                cycle=(self._text,),
            )
        self._cache.computing.add(mark)
        try:
            return self._race(None if timeout is None else time.monotonic() + timeout)
        finally:
            self._cache.computing.discard(mark)

    def _race(self, deadline: float | None) -> Any:
        while True:
            verdict = self._decide(deadline)
            if self._done:
                return self._outcome()
            if verdict == _NOT_STORED:
                self._compute()
                return self._outcome()
            if verdict != _STORED:
                raise values.decode_error(verdict)
            value = self._cache.look(self._slot)
            if value is not MISSING:
                self._cache.count("waited")
                return value  # else it is gone already, and the race begins again

    def _decide(self, deadline: float | None) -> str:
        """Compute, or wait for whoever does."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            once = Once(self._cache.session, self._cache.turn(self._text), timeout=timeout, keep=False)
            return str(once.run(self._work))
        except InterlockError as error:
            if self._done:  # whatever befell the others' wait, this participant has its value
                return _STORED
            if not isinstance(error, Unavailable):
                raise
            self._cache.warn(f"{self._cache!r} cannot say who computes, so that everybody does: {error}")
            return _NOT_STORED

    def _work(self) -> str:
        """For the one whose turn it is: the value may have come since it was looked for."""
        self._value = self._cache.look(self._slot)
        if self._value is MISSING:
            return self._compute()
        self._done = True
        return _STORED

    def _compute(self) -> str:
        started = time.perf_counter()
        verdict = _STORED
        try:
            encoded = codecs.encode(self._fn(), allow_pickle=self._cache.allow_pickle)
        except Exception as error:
            self._error = error
            verdict = values.encode_error(error, self._cache.author())
            encoded = Encoded(codecs.ERROR, [verdict.encode()])
        self._cache.count("computed")
        if self._error is None or self._keep_errors:
            stored = self._store(encoded, time.perf_counter() - started)
            verdict = verdict if stored or self._error else _NOT_STORED
        if self._error is None:
            self._value = self._cache.look(self._slot) if verdict == _STORED else MISSING
            if self._value is MISSING:
                self._value = codecs.decode(encoded.codec, b"".join(encoded.buffers), allow_pickle=True)
        self._done = True
        return verdict

    def _store(self, encoded: Encoded, seconds: float) -> bool:
        try:
            self._cache.store(self._slot, encoded, seconds)
        except (OSError, LimitExceeded) as error:
            self._cache.warn(f"{self._cache!r} could not store a value, and goes on without: {error}")
            return False
        return True

    def _outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value
