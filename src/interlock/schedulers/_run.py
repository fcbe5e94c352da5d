"""Runs: what a scheduler tells of one run of a job, and what that proves about a holder.

Job ids are used again, and a job that is requeued runs again under its own: so a run is weighed against the time at
which the holder began. Clocks of controllers and nodes differ; `MARGIN_S` is what they are forgiven.

1. The id belongs to a job that was submitted after the holder began: the holder's own is over, for no scheduler gives
   one id to two jobs at a time.
2. A run that began after the holder did is not the holder's, and says nothing of the one that was.
3. A run that ended before the holder began is an older one of that id, and says nothing either.
4. What neither runs for certain nor has ended for certain is unknown.

Layer: above `holder`; imported by the schedulers.
"""

from __future__ import annotations

import re
import time
from typing import Literal, NamedTuple

from interlock.holder import Holder, Life
from interlock.world import Job

MARGIN_S = 600.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CTIME = re.compile(r"(?:[A-Z][a-z]{2} )?([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d)(?::(\d\d))?(?: (\d{4}))?")


class Run(NamedTuple):
    """One run of a job. Times are wall clock seconds, None where nobody tells them.

    life:   what its state means: its processes may go on (``alive``), have ended (``dead``), or nobody knows.
    words:  the same for people, as in ``runs`` or ``ended FAILED``.
    """

    life: Literal["alive", "dead", "unknown"]
    words: str
    submitted: float | None = None
    began: float | None = None
    ended: float | None = None


def weigh(run: Run, job: Job, holder: Holder) -> Life:
    """What a run of the holder's job proves about the holder."""
    if not holder.since:
        life = run.life if run.life == "alive" else "unknown"
        return Life(life, f"{job} {run.words}, and the holder does not tell since when it is there")
    if is_later(run, holder) and run.submitted is not None:
        return Life(
            "dead", f"{job} is another one by now, submitted at {clock(run.submitted)}, after this holder began"
        )
    if run.began is not None and run.began > holder.since + MARGIN_S:
        return Life("unknown", f"{job} {run.words}, but in a run that began at {clock(run.began)}, after this holder")
    if run.life == "dead" and run.ended is not None and run.ended < holder.since - MARGIN_S:
        return Life(
            "unknown", f"{job} {run.words} at {clock(run.ended)}, before this holder began: an older one of that id"
        )
    born = run.began if run.submitted is None else run.submitted
    words = f"{job}{'' if born is None else f' of {clock(born)}'} {run.words}"
    return Life(run.life, words if run.life != "dead" or run.ended is None else f"{words} at {clock(run.ended)}")


def is_later(run: Run, holder: Holder) -> bool:
    """Whether it was submitted only after the holder had begun."""
    return run.submitted is not None and run.submitted > holder.since + MARGIN_S


def covers(run: Run, holder: Holder) -> bool:
    """Whether the holder may have begun in it."""
    begins = run.began is not None and run.began <= holder.since + MARGIN_S
    return begins and (run.ended is None or run.ended >= holder.since - MARGIN_S)


def clock(seconds: float) -> str:
    """A time of day for people, with its date unless that is today's."""
    then, today = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def host(name: str) -> str:
    """A host's name without its domain, which schedulers write or leave out."""
    return name.partition(".")[0].lower()


def read_ctime(text: str, *, until: float | None = None) -> float | None:
    """A time as C's ctime writes it, with or without weekday, seconds and year; None if it is none.

    Without a year, it is the last such time up to `until`, and really that or a whole number of years earlier.
    """
    found = _CTIME.fullmatch(text.strip())
    if found is None or found[1] not in _MONTHS or (found[6] is None and until is None):
        return None
    month, day, hour, minute, second = _MONTHS.index(found[1]) + 1, *(int(found[n] or 0) for n in range(2, 6))
    years = [int(found[6])] if found[6] else range(time.localtime(until).tm_year + 1, 1970, -1)
    for year in years:
        then = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
        if time.localtime(then)[1:3] == (month, day) and (found[6] or then <= (until or 0)):
            return then
    return None
