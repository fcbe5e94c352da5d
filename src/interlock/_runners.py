"""The runner: it performs what a script asks for, against a store, in the calling thread.

`aio` has the other one, for asyncio tasks, which performs the same effects.
Layer: above `_script`; the only place with clocks, logging and threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from interlock._script import Abandon, Now, Park, Pause, Probe, Report, Script, Submit
from interlock.abc import Leave, Liveness, Machine, Outcome, Store
from interlock.errors import InterlockError, OutcomeUnknown, Unavailable

logger = logging.getLogger("interlock")
_ABANDON_RETRY_S = 0.1
_FOR_EVER_S = 3600.0


class Target(NamedTuple):
    """The object a script is about: where its record is, and how a long wait is put into words."""

    store: Store
    name: str
    machine: Machine
    alive: Callable[[str], Liveness]
    words: Callable[[], Callable[[Report], str] | None]  # weak, so that an object and its target do not keep each other
    check: Callable[[], None]  # raises if the session behind it is closed

    def attempt(self, op: Any, deadline: float | None = None) -> Outcome:
        """Submit an op before there is a script, because most ops need none; see `block` for those that do."""
        return self.store.transact(self.name, self.machine, op, deadline)

    def submit(self, effect: Submit) -> Any:
        return self.store.transact(self.name, self.machine, effect.op, effect.deadline)

    def park(self, effect: Park) -> None:
        left = _FOR_EVER_S if effect.until is None else effect.until - time.monotonic()
        self.store.park(effect.ticket, left)
        self.check()

    def probe(self, effect: Probe) -> Any:
        return self.alive(effect.session)

    def report(self, effect: Report) -> None:
        words = self.words()
        if words is not None:
            logger.warning("%s", words(effect))

    def abandon(self, effect: Abandon) -> None:
        """Leave in the background: the record is out of reach now, and a forgotten ticket would block others."""
        threading.Thread(target=self._leave_at_last, args=(effect.op,), name="interlock-leave", daemon=True).start()

    def _leave_at_last(self, op: Leave) -> None:
        while True:
            try:
                self.store.transact(self.name, self.machine, op, time.monotonic() + 1.0)
                return
            except (Unavailable, OutcomeUnknown):
                time.sleep(_ABANDON_RETRY_S)
            except InterlockError:
                return


def _now(target: Target, effect: Now) -> tuple[float, int]:
    return time.monotonic(), time.time_ns() // 1_000_000


def _pause(target: Target, effect: Pause) -> None:
    time.sleep(effect.seconds)


_PERFORM: dict[type, Callable[[Target, Any], Any]] = {
    Submit: Target.submit,
    Park: Target.park,
    Probe: Target.probe,
    Report: Target.report,
    Abandon: Target.abandon,
    Now: _now,
    Pause: _pause,
}


def perform(target: Target, effect: Any) -> Any:
    """Do what one effect asks for, in the calling thread, and return its answer."""
    return _PERFORM[type(effect)](target, effect)


def block(script: Script, target: Target, made: Outcome | BaseException | None = None) -> Any:
    """Run a script in the calling thread and return its result.

    An exception in between, a signal's included, goes through the script, which leaves before it lets it out. `made` is
    what the script's first submission came to, an error perhaps, where it has been made already.
    """
    step, answer = script.send, None
    while True:
        try:
            effect = step(answer)
            if made is not None and type(effect) is Submit:
                answer, made = made, None
                step = script.throw if isinstance(answer, BaseException) else script.send
            else:
                step, answer = script.send, perform(target, effect)
        except StopIteration as stop:
            return stop.value
        except BaseException as error:
            if getattr(script, "gi_frame", None) is None:
                raise
            step, answer = script.throw, error
