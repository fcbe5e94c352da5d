"""Event in shared memory: a flag and how often it was set, in one word.

The C type below it looks at that word; whoever has to wait goes the way of every other store.

Layer: an object.
"""

from __future__ import annotations

from interlock import _native, objects
from interlock.objects.named import check_timeout


class Event(_native.Event, objects.Event):
    """`interlock.Event` in shared memory; a look at it, and a wait for one that is set, cost a look at one word."""

    def _is_set(self) -> bool:
        """Look where the name is now, and there from now on."""
        self._region = self._session.store.region(self.name, self.machine)  # type: ignore[attr-defined]
        return bool(self._region.is_set())

    def _wait_slowly(self, timeout: float | None) -> bool:
        return self._is_set() or bool(self._run(self._wait(check_timeout(timeout))))
