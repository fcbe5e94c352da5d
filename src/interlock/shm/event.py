"""Event in shared memory: a flag and how often it was set, in one word.

Layer: an object.
"""

from __future__ import annotations

from typing import Any

from interlock import objects
from interlock.objects.named import check_timeout


class Event(objects.Event):
    """`interlock.Event` in shared memory; a look at it, and a wait for one that is set, cost a look at one word."""

    _region: Any = None

    def is_set(self) -> bool:
        """Whether the flag is set. Takes nothing."""
        if self._region is None:
            self._region = self._session.store.region(self.name, self.machine)  # type: ignore[attr-defined]
        return bool(self._region.is_set()) or super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set; False if time ran out."""
        return self.is_set() or bool(self._run(self._wait(check_timeout(timeout))))
