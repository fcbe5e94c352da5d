"""Waiting for a ticket's turn in a space: woken on this host, by looking again where other hosts may be involved.

Whoever waits remembers its wake-up word as it was before its record was read; so a change that it has not seen ends
its sleep at once (`stores._futex`). Wake-ups are hints: a lost one costs one nap.

Layer: under `stores.file`.
"""

from __future__ import annotations

import random
import time
from typing import Any

from interlock.abc import WAITING, Outcome, Ticket
from interlock.stores._futex import slot
from interlock.stores._space import Space

REPOLL_S = 0.1  # at most so long until a waiter on this host looks again, and at whoever it is behind
SHARED_REPOLL_S = 0.25  # the cap where other hosts may be involved and wake-ups do not reach us
_TICKETS = 256  # waits whose nap is remembered


class Waiting:
    """Which tickets of this process wait in a space, and for which word."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._naps: dict[Ticket, float] = {}
        self.seen: dict[Ticket, int] = {}

    def word(self, ticket: Ticket) -> int:
        """The wake-up word of a ticket as it is now."""
        words = self._space.words
        return 0 if words is None else words.read(slot(*ticket))

    def note(self, op: Any, outcome: Outcome, word: int | None = None) -> None:
        """Remember the word of a ticket that waits, as it was before its record was read."""
        if outcome.state == WAITING:
            self.seen[op.ticket] = self.word(op.ticket) if word is None else word
        else:
            self.seen.pop(getattr(op, "ticket", None), None)  # type: ignore[arg-type]

    def unpark(self, ticket: Ticket) -> None:
        """Wake whoever waits for the ticket on this host."""
        words = self._space.words
        if words is not None:
            words.wake(slot(*ticket))

    def park(self, ticket: Ticket, timeout: float) -> None:
        """Sleep until the ticket is unparked, or it is time to look again."""
        seen, words = self.seen.get(ticket, 0), self._space.words
        if timeout <= 0:
            return
        nap = REPOLL_S
        if self._space.shared or words is None:
            nap = self._naps[ticket] = min(self._naps.pop(ticket, 0.002) * 1.5, SHARED_REPOLL_S)
            nap *= random.uniform(0.5, 1.0)
            if len(self._naps) > _TICKETS:
                self._naps.clear()
        if words is None:
            time.sleep(min(timeout, nap))
        else:
            words.sleep(slot(*ticket), seen, min(timeout, nap))
