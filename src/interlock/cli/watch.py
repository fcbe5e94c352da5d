"""What ends a command early: its hold is lost, or the time limit of its job comes.

A hold is lost if the name's record says so, or if the session is lost that holds it: then others may take it. A store
that cannot be reached just now proves neither.

The scheduler is asked for the time limit every `ASK_S`, and once more at the moment of acting, because limits can be
changed while a job runs. Where no scheduler tells one, the command runs for as long as it likes.

Layer: under `cli.run`.
"""

from __future__ import annotations

import time

from interlock import inspection
from interlock.cli.child import Stop
from interlock.holder import span
from interlock.objects import Grant
from interlock.session import Session

GRACE_S = 5.0  # what a command has when its hold is lost: not long, because the next one may be at work already
ASK_S = 60.0
MARGIN_S = 2.0  # how long before the end of the job the command is killed, so that the name is still given back


class Watch:
    """The watch over a hold and, with `grace_s`, over the time limit of this process's job."""

    def __init__(self, session: Session, name: str, grant: Grant, grace_s: float | None) -> None:
        self._session = session
        self._name = name
        self._token = grant.token
        self._grace_s = grace_s
        self._ask_at = 0.0

    def lost(self) -> bool:
        """Whether the hold is lost."""
        session = self._session
        return session.lost or not inspection.holds(session.store, self._name, session.id, self._token)

    def must_stop(self) -> Stop | None:
        """Why the command must stop now, if it must."""
        if self.lost():
            return Stop(f"the hold of {self._name!r} is lost", GRACE_S)
        return None if self._grace_s is None else self._time_is_up(self._grace_s)

    def _time_is_up(self, grace_s: float) -> Stop | None:
        if time.monotonic() < self._ask_at:
            return None
        from interlock import schedulers  # not at import: most commands run without it

        end, now = schedulers.ends_at(), time.time()
        left = ASK_S if end is None else end - grace_s - now
        if end is not None and left <= 0:
            return Stop(f"this job's time limit comes in {span(end - now)}", max(end - MARGIN_S - now, 0.0))
        self._ask_at = time.monotonic() + min(left, ASK_S)
        return None
