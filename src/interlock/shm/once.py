"""Once in shared memory: who works is one word, and what came of it a file beside it.

The C type below it remembers a result that is kept, and knows by a look at that word whether it still is the result.

Layer: an object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock import _native, objects, results
from interlock._script import Script
from interlock.abc import Outcome


class Once(_native.Once, objects.Once):
    """`interlock.Once` in shared memory."""

    def _run_slowly(self, fn: Callable[[], Any]) -> Any:
        """Where the result is not known here."""
        return objects.Once.run(self, fn)

    def _claim(self) -> Script:
        look = self._look(self._session.store.region(self.name, self.machine))  # type: ignore[attr-defined]
        ticket, outcome = yield from super()._claim()
        if outcome.state == "done":
            self._know(look, outcome)
        return ticket, outcome

    def _read(self, outcome: Outcome, fn: Callable[[], Any]) -> Any:
        """The value of a result that is still there."""
        assert self._session.id
        try:
            return results.result_of(outcome, self._session.store)
        except results.Missing:
            return self._run_slowly(fn)
