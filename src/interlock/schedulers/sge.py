"""Grid Engine (SGE, Univa, Altair), asked through qstat and qacct.

1. While qstat shows the job, it is not over; of an array, qacct may know that one task is.
2. A run in the accounting file is over if it went on when the holder began, was on the holder's host, and ended with a
   word from there (`CLEAN`).
3. Ids are used again, and clusters number their jobs alike: $SGE_CLUSTER_NAME must be the holder's.

Layer: above `_run` and `_command`.
"""

from __future__ import annotations

import os
import re
import time

from interlock.holder import Holder, Life
from interlock.schedulers._command import Refused, Silent, ask
from interlock.schedulers._run import Run, covers, host, is_later, read_ctime, weigh
from interlock.world import Job

CLEAN = ("0", "100")  # "no failure" and "assumedly after job", that is, killed by a signal
_SLASHED = re.compile(r"(\d\d)/(\d\d)/(\d{4}) (\d\d):(\d\d):(\d\d)(?:\.\d+)?")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.\d+)?")


def life(job: Job, holder: Holder) -> Life:
    """What Grid Engine proves about a holder. Raises `Silent` if it does not answer."""
    here = os.environ.get("SGE_CLUSTER_NAME", "")
    if job.cluster and job.cluster != here:
        raise Silent(f"{job} is of cluster {job.cluster}, and this is {here or 'none that has a name'}: ask there")
    if re.fullmatch(r"[0-9]{1,18}", job.id) is None:
        raise Silent(f"{job.id!r} is no job id of Grid Engine")
    listed = _listed(job)
    if listed is not None and (job.array_index is None or is_later(listed, holder)):
        return weigh(listed, job, holder)
    try:
        return weigh(_accounted(job, holder), job, holder)
    except Silent:
        if listed is None:
            raise
        return weigh(listed, job, holder)


def _listed(job: Job) -> Run | None:
    """The job as qstat shows it; None if it says that there is none."""
    try:
        text = ask("qstat", "-j", job.id)
    except Refused as error:
        if "do not exist" in str(error):
            return None
        raise
    if re.search(rf"^job_number: +{job.id}$", text, re.MULTILINE) is None:
        raise Silent(f"qstat answers something else than was asked about {job}")
    found = re.search(r"^submission_time: +(.+)$", text, re.MULTILINE)
    return Run("alive", "is not over", _time(found[1]) if found else None)


def _accounted(job: Job, holder: Holder) -> Run:
    """The run of the holder, from the accounting file. Raises `Silent` if it is not there."""
    task = () if job.array_index is None else ("-t", str(job.array_index))
    records = [_members(part) for part in re.split(r"^=+\s*$", ask("qacct", "-j", job.id, *task), flags=re.MULTILINE)]
    for record in records:
        index = record.get("taskid", "undefined")
        run = Run("dead", "ended", *(_time(record.get(f"{name}_time", "")) for name in ("qsub", "start", "end")))
        if record.get("jobnumber") != job.id or index != str(
            "undefined" if job.array_index is None else job.array_index
        ):
            continue
        if not covers(run, holder) or host(record.get("hostname", "")) != host(holder.host) or run.ended is None:
            continue
        code = record.get("failed", "").partition(":")[0].strip()
        if code not in CLEAN:
            raise Silent(f"{job} failed with code {code or 'none'}, which does not tell whether its processes go on")
        return run
    raise Silent(f"Grid Engine does not know job {job.id} any more, nor does its accounting know a run of this holder")


def _members(record: str) -> dict[str, str]:
    """The lines of a record, each a name and a text; the first of a name counts."""
    members: dict[str, str] = {}
    for line in record.splitlines():
        name, _, text = line.partition(" ")
        members.setdefault(name, text.strip())
    return members


def _time(text: str) -> float | None:
    """A time in any of the three ways in which versions of Grid Engine write it."""
    text = text.strip()
    if found := _SLASHED.fullmatch(text):
        month, day, year, *rest = map(int, found.groups())
    elif found := _ISO.fullmatch(text):
        year, month, day, *rest = map(int, found.groups())
    else:
        return read_ctime(text)
    return time.mktime((year, month, day, rest[0], rest[1], rest[2], 0, 0, -1))
