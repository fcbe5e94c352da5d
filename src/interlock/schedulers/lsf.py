"""LSF, asked through bjobs.

| state | the processes of the job |
|---|---|
| RUN, PROV | run |
| USUSP, SSUSP | are stopped, and may go on at any moment |
| PEND, PSUSP, WAIT | are about to run |
| DONE, EXIT | are gone, as the first of its hosts has said, unless LSF gave the job up (`CLEAN`) |
| UNKWN, ZOMBI and whatever else there is | nobody knows: the host does not answer |

1. ``bjobs -o`` writes times without a year. The last such time may be years too late, so it never proves that an id was
   used again: a run that seems to have begun after the holder is unknown.
2. The job's hosts must name the holder's, or it is another cluster's job, or another run; and only what ran on the
   first of them is known to be gone with the job.
3. A job that is forgotten (CLEAN_PERIOD) is no proof.

Sources: IBM's pages on ``bjobs -o``, on job states, on termination reasons, on removing hung jobs and on
LSB_DISPLAY_YEAR, which is for ``bjobs -l`` only.

Layer: above `_run` and `_command`.
"""

from __future__ import annotations

import re
import time
from typing import Literal

from interlock.holder import Holder, Life
from interlock.schedulers._command import Silent, ask
from interlock.schedulers._run import Run, host, read_ctime, weigh
from interlock.world import Job

ALIVE = {
    **dict.fromkeys(("RUN", "PROV"), "runs"),
    **dict.fromkeys(("USUSP", "SSUSP"), "is suspended"),
    **dict.fromkeys(("PEND", "PSUSP", "WAIT"), "waits to run"),
}
CLEAN = {  # ends of which the job's own host has told; not TERM_FORCE_OWNER, TERM_REMOVE_HUNG_JOB and their like
    *("-", "", "TERM_ADMIN", "TERM_CHKPNT", "TERM_CPULIMIT", "TERM_CWD_NOTEXIST", "TERM_DEADLINE"),
    *("TERM_EXTERNAL_SIGNAL", "TERM_LOAD", "TERM_MEMLIMIT", "TERM_OWNER", "TERM_PREEMPT", "TERM_PROCESSLIMIT"),
    *("TERM_RUNLIMIT", "TERM_SWAP", "TERM_THREADLIMIT", "TERM_WINDOW"),
}
FIELDS = "jobid jobindex stat exit_reason start_time finish_time exec_host delimiter='|'"
_ID = re.compile(r"[0-9]{1,18}(\[[0-9]{1,18}\])?")
_DAY_S = 86400.0


def life(job: Job, holder: Holder) -> Life:
    """What LSF proves about a holder. Raises `Silent` if it does not answer."""
    state, reason, began, ended, hosts = _told(job)
    here = host(holder.host)
    if hosts and here not in hosts:
        raise Silent(
            f"{job} is on {', '.join(hosts)}, and this holder on {here}: another run, or another cluster's job"
        )
    verdict: Literal["alive", "dead", "unknown"] = "alive" if state in ALIVE else "unknown"
    words = ALIVE.get(state, f"is {state}, which does not tell whether its processes go on")
    if state in ("DONE", "EXIT"):
        words = f"ended {state}"
        if reason.partition(":")[0] not in CLEAN:
            words += f" ({reason}), of which its host may not know"
        elif hosts[:1] == [here]:
            verdict = "dead"
        else:
            words += f", but not on {here} for certain"
    until = time.time() + _DAY_S
    run = Run(verdict, words, None, read_ctime(began, until=until), read_ctime(_bare(ended), until=until))
    if verdict == "dead" and (run.began is None or run.ended is None):
        raise Silent(f"{job} {words}, but bjobs does not tell when")
    return weigh(run, job, holder)


def ends_at(job: Job) -> float | None:
    """When the job's run limit ends it, to the minute. Raises `Silent` if LSF does not answer."""
    state, _, _, ends, _ = _told(job)
    if state not in ALIVE or not ends.endswith(" L"):  # E and X mark an estimate, which ends nothing
        return None
    return read_ctime(_bare(ends), until=time.time() + 365 * _DAY_S)


def _told(job: Job) -> tuple[str, str, str, str, list[str]]:
    """The job's state, exit reason, start, finish, and the hosts that it is on, without their domains."""
    name = job.id if job.array_index is None else f"{job.id}[{job.array_index}]"
    if _ID.fullmatch(name) is None:
        raise Silent(f"{name!r} is no job id of LSF")
    told = []
    for line in ask("bjobs", "-noheader", "-o", FIELDS, name).splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 7 and name in (cells[0], f"{cells[0]}[{cells[1]}]"):
            told.append(cells)
    if len(told) != 1:
        raise Silent(f"bjobs answers something else than was asked about {job}")
    _, _, state, reason, began, ended, places = told[0]
    return (
        state,
        reason,
        began,
        ended,
        [host(place.rpartition("*")[2]) for place in places.split(":") if place.strip("-")],
    )


def _bare(text: str) -> str:
    """A finish time without the letter that tells what it rests on."""
    return re.sub(r" [LEX]$", "", text)
