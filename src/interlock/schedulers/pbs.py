"""PBS (OpenPBS, PBS Professional), asked through qstat.

| state | the processes of the job |
|---|---|
| R | run |
| S, U | are stopped, and may go on at any moment |
| E | are being ended, and are not known to be gone |
| Q, H, T, W, B | are about to run |
| F, X | are gone if its first host has told an exit status; without one, PBS gave the job up |
| M and whatever else there is | nobody knows here |

1. A status below zero is PBS's own word for a job that its host lost or that was requeued: it proves nothing.
2. Only what ran on the first of the job's hosts is known to be gone with it.
3. An id carries its server's name, and qstat asks that server.

Layer: above `_run` and `_command`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from interlock.holder import Holder, Life
from interlock.schedulers._command import Silent, ask
from interlock.schedulers._run import Run, host, read_ctime, weigh
from interlock.world import Job

ALIVE = {
    "R": "runs",
    **dict.fromkeys("SU", "is suspended"),
    "E": "is ending",
    **dict.fromkeys("QHTWB", "waits to run"),
}
_ID = re.compile(r"[0-9]{1,18}(\[[0-9]*\]|-[0-9]+)?(\.[A-Za-z0-9][A-Za-z0-9._-]*)?")


def life(job: Job, holder: Holder) -> Life:
    """What PBS proves about a holder. Raises `Silent` if it does not answer."""
    told = _told(job)
    state, status, here = told.get("job_state"), told.get("Exit_status"), host(holder.host)
    first = host(str(told.get("exec_host", "")).partition("/")[0])
    verdict: Literal["alive", "dead", "unknown"] = "alive" if state in ALIVE else "unknown"
    words = ALIVE.get(str(state), f"is {state}, which does not tell whether its processes go on")
    if state in ("F", "X"):
        words = f"ended with status {status}"
        if type(status) is not int or status < 0:
            words = "ended without its host having told how"
        elif first != here:
            words += f" on {first or 'no host'}, but not on {here} for certain"
        else:
            verdict = "dead"
    submitted, began, ended = (read_ctime(str(told.get(name, ""))) for name in ("ctime", "stime", "mtime"))
    if verdict == "dead" and None in (submitted, began):
        raise Silent(f"{job} {words}, but qstat does not tell when it was submitted")
    return weigh(Run(verdict, words, submitted, began, ended if verdict == "dead" else None), job, holder)


def ends_at(job: Job) -> float | None:
    """When the job's walltime is over. Raises `Silent` if PBS does not answer."""
    told = _told(job)
    began, limits = read_ctime(str(told.get("stime", ""))), told.get("Resource_List")
    limit = str(limits.get("walltime", "")) if isinstance(limits, dict) else ""
    found = re.fullmatch(r"([0-9]{1,6}):([0-9]{2}):([0-9]{2})", limit)
    if began is None or found is None or told.get("job_state") not in ALIVE:
        return None
    return began + int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])


def _told(job: Job) -> dict[str, Any]:
    """The job's attributes."""
    if _ID.fullmatch(job.id) is None:
        raise Silent(f"{job.id!r} is no job id of PBS")
    answer = json.loads(ask("qstat", "-x", "-f", "-F", "json", job.id), object_pairs_hook=_once)
    jobs = answer["Jobs"]
    names = [name for name in jobs if job.id in (name, name.partition(".")[0])]
    if len(names) != 1 or not isinstance(jobs[names[0]], dict):
        raise Silent(f"qstat answers something else than was asked about {job}")
    found: dict[str, Any] = jobs[names[0]]
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: an ill-quoted job name must not become a second state."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)
