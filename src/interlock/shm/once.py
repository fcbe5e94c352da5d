"""Once in shared memory: who works is one word, and what came of it a file beside it.

The C type below it answers with the result that this process has read before, if that is still the one.

Layer: an object.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from interlock import _native, objects, results
from interlock.abc import Outcome


class Once(_native.Once, objects.Once):
    """`interlock.Once` in shared memory; a result that is known here costs a look at one word, and its decoding."""

    def _run_slowly(self, fn: Callable[[], Any]) -> Any:
        """Where the result is not known here; or was not, where the name is now."""
        region = self._session.store.region(self.name, self.machine)  # type: ignore[attr-defined]
        if region is self._region:
            return objects.Once.run(self, fn)
        self._region = region
        return self.run(fn)

    def _read(self, outcome: Outcome, fn: Callable[[], Any]) -> Any:
        """The value of a result that is still there."""
        if self._session.id and not (self.retry and outcome.state == "failed"):
            with suppress(results.Missing):
                return results.result_of(outcome, self._session.store)
        return objects.Once.run(self, fn)
