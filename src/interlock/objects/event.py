"""Event: a flag that processes wait for.

Layer: an object.
"""

from __future__ import annotations

from typing import Any

from interlock._script import Script, TimedOut, leave, settle, submit
from interlock.machines.event import EVENT, Clear, Set, Wait
from interlock.objects.named import Named, check_timeout


class Event(Named):
    """A flag with the face of `threading.Event`; it stays set when its setter is gone."""

    machine = EVENT

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._session, self.name)

    def set(self) -> None:
        """Set the flag and let everybody go who waits for it."""
        self._run(submit(Set()))

    def clear(self) -> None:
        """Clear the flag; who was let go stays let go."""
        self._run(submit(Clear()))

    def is_set(self) -> bool:
        """Whether the flag is set. Takes nothing."""
        return bool(self._record().flag)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set.

        Args:    timeout: seconds; None waits for ever, 0 looks once.
        Returns: True if the flag was set while waiting, False if time ran out.
        Cost:    one transaction if it is set; otherwise three and the wait.
        """
        return bool(self._run(self._wait(check_timeout(timeout))))

    def _wait(self, timeout: float | None) -> Script:
        ticket = self._session.ticket()
        try:
            outcome = yield from settle(Wait(ticket, timeout != 0), timeout)
        except TimedOut as late:
            return late.left is not None and late.left.state == "set"
        if outcome.state != "set":
            raise self._refused(outcome)
        yield from leave(ticket)
        return True
