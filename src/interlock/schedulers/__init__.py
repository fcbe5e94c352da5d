"""Schedulers: whether the job of a holder on another machine still runs, and when one's own will be ended.

Why it exists: a pid proves nothing from afar, but whoever gave out the nodes knows which jobs are over. A wrong answer
costs a day of GPU time either way, so it is asked with care:

1. "dead" is said of a run that is proved to be the holder's own, or older than the job that has its id now, and that
   its node is not cut off from. Each scheduler's file opens with what its states prove.
2. A scheduler that is not here, does not answer, has forgotten, or says what nobody can read is "unknown".
3. What has ended stays so; every other answer is forgotten after `REMEMBERED_S`.

Layer: above `holder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from interlock.holder import Holder, Life, plain
from interlock.schedulers import kubernetes, lsf, pbs, sge, slurm
from interlock.schedulers._command import Silent
from interlock.world import Job
from interlock.world import job as own_job

__all__ = ["ends_at", "life"]

REMEMBERED_S = 30.0
_LIVES: dict[str, Callable[[Job, Holder], Life]] = {
    "slurm": slurm.life,
    "lsf": lsf.life,
    "pbs": pbs.life,
    "sge": sge.life,
    "kubernetes": kubernetes.life,
}
_ENDS: dict[str, Callable[[Job], float | None]] = {"slurm": slurm.ends_at, "lsf": lsf.ends_at, "pbs": pbs.ends_at}
_COMMANDS = {"slurm": "squeue", "lsf": "bjobs", "pbs": "qmgr", "sge": "qacct"}  # each is this scheduler's only
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, OSError)
_remembered: dict[Holder, tuple[float, Life]] = {}


def life(holder: Holder) -> Life | None:
    """What the scheduler of the holder's job proves about the holder, in words; never raises.

    Returns: None if the holder belongs to no job, or to one of a launcher that cannot be asked (torchrun).
    Cost:    a command or three of the scheduler, some 20 ms each, at most 10 s; what is remembered is free.
    """
    if not holder.job_id or holder.scheduler == "torchrun":
        return None
    until, verdict = _remembered.get(holder, (0.0, None))
    if verdict is None or time.monotonic() >= until:
        verdict = _asked(holder)
        until = float("inf") if verdict.state == "dead" else time.monotonic() + REMEMBERED_S
        _remembered[holder] = until, verdict
    return verdict


def ends_at(job: Job | None = None) -> float | None:
    """When the scheduler will end a job by its time limit, in wall clock seconds; None if that is not so or not known.

    Args:    job: None is the job of this process.
    Raises:  ValueError: a scheduler's variable is malformed.
    """
    job = job or own_job()
    if job is None or job.scheduler not in _ENDS:
        return None
    try:
        return _ENDS[job.scheduler](job)
    except (Silent, *_UNREADABLE):
        return None


def _asked(holder: Holder) -> Life:
    try:
        job = holder.job or _guessed(holder)
        if job.scheduler not in _LIVES:
            raise Silent(f"nobody here knows how to ask about {job}")
        verdict = _LIVES[job.scheduler](job, holder)
    except Silent as silence:
        verdict = Life("unknown", str(silence))
    except _UNREADABLE as error:
        verdict = Life("unknown", f"nobody can read what the scheduler says of job {holder.job_id}: {error}")
    return Life(verdict.state, plain(verdict.proof))


def _guessed(holder: Holder) -> Job:
    """The job of a holder that a shell has noted down without its scheduler: there is one here only."""
    from shutil import which

    found = [name for name, command in _COMMANDS.items() if which(command)]
    if len(found) != 1 or holder.job_id is None:
        here = f"{' and '.join(found)} are" if found else "none is"
        raise Silent(f"job {holder.job_id} may be of any scheduler, and {here} here")
    return Job(found[0], holder.job_id, holder.array_index, cluster=holder.cluster)
