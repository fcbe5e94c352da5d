"""Slurm, asked through squeue, sacct and sinfo.

| state, as squeue has it | the processes of that run |
|---|---|
| RUNNING, RESIZING, SIGNALING | run |
| SUSPENDED, STOPPED | are stopped, and may go on at any moment |
| COMPLETING, STAGE_OUT | are being ended, and are not known to be gone |
| PENDING, CONFIGURING, REQUEUED, SPECIAL_EXIT and the like (`WAITING`) | are about to run |
| COMPLETED, FAILED, CANCELLED, TIMEOUT and the like (`ENDED`) | are gone, as their nodes have said |
| NODE_FAIL and whatever else there is or will be | nobody knows: a node that does not answer may still run them |

1. An end is believed while the holder's node answers. Slurm gives up a job whose node is DOWN, but what ran there may
   go on unseen, on a shared file system too. A node that comes back is told at once to kill what should not be there.
2. A larger restart count than the holder's means that the holder's run is over, once the job is no longer COMPLETING.
   A holder that a shell has noted down does not tell its restart; then the times alone decide.
3. A process in an allocation but not on one of its nodes (the shell of salloc, on a login node) outlives the job.
4. What the controller has forgotten (MinJobAge) accounting may know; that neither knows a job is no proof.
5. Only columns that a user cannot write are asked for, in fixed widths: no names, no comments.

Layer: above `_run` and `_command`.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from interlock.holder import Holder, Life
from interlock.schedulers._command import Refused, Silent, ask
from interlock.schedulers._run import MARGIN_S, Run, covers, host, is_later, weigh
from interlock.world import Job

WAITING = (
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"),
    *("RESV_DEL_HOLD", "POWER_UP_NODE"),
)
ALIVE = {
    **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING"), "runs"),
    "SUSPENDED": "is suspended",
    "STOPPED": "is stopped",
    **dict.fromkeys(("COMPLETING", "STAGE_OUT"), "is ending"),
    **dict.fromkeys(WAITING, "waits to run"),
}
ENDED = (*("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"),)
ACCOUNTED = "--format=Cluster,JobIDRaw,JobID,State,Submit,Start,End,NodeList"
_ID = re.compile(r"([0-9]{1,18})(?:_([0-9]{1,18}))?")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_ANSWERS = re.compile(r"(?!.*respond)(idle|allocated|mixed)(\+[a-z_]+)*")


class Row(NamedTuple):
    """One line of squeue, each column with the width it is asked for."""

    JobID: str
    ArrayJobID: str
    ArrayTaskID: str
    Cluster: str
    State: str
    SubmitTime: str
    StartTime: str
    EndTime: str
    TimeLimit: str
    RestartCnt: str
    NodeList: str


_WIDTHS = (20, 20, 20, 64, 20, 24, 24, 24, 24, 12, 4096)


def life(job: Job, holder: Holder) -> Life:
    """What Slurm proves about a holder. Raises `Silent` if it does not answer."""
    row = _queued(job)
    if row is None:
        return _remembered(job, holder)
    _check_cluster(job, row.Cluster)
    restart, run = int(row.RestartCnt), _run(row.State, row.SubmitTime, row.StartTime, row.EndTime)
    if holder.scheduler and restart > holder.restart:
        if row.State != "COMPLETING" or restart > holder.restart + 1:
            if run.submitted is None or not 0 < holder.since < run.submitted + MARGIN_S:  # a requeue is a submission
                raise Silent(f"{job} was restarted {restart} times, but not since this holder began")
            over = f"{job} was requeued: its restart {holder.restart} has ended, and restart {restart} {run.words}"
            return _confirmed(Life("dead", over), holder)
        run = Run("alive", "is ending, to be requeued")
    elif holder.scheduler and restart < holder.restart:
        run = run._replace(life="unknown", words=f"is told to have been restarted {restart} times only")
    return _confirmed(weigh(run, job, holder), holder, "" if is_later(run, holder) else row.NodeList)


def ends_at(job: Job) -> float | None:
    """When the job's time limit ends it. Raises `Silent` if Slurm does not answer."""
    row = _queued(job)
    return None if row is None or row.TimeLimit == "UNLIMITED" else _time(row.EndTime)


def _name(job: Job) -> str:
    """The job as Slurm's commands take it. What a file has told is not let through unseen."""
    name = job.id if job.array_index is None else f"{job.id}_{job.array_index}"
    if _ID.fullmatch(name) is None:
        raise Silent(f"{name!r} is no job id of Slurm")
    return name


def _queued(job: Job) -> Row | None:
    """The job as the controller knows it; None if it does not, or not any more."""
    name = _name(job)
    columns = ",".join(f"{column}:{width}" for column, width in zip(Row._fields, _WIDTHS, strict=True))
    try:
        text = ask("squeue", "--noheader", "--states=all", f"--jobs={name}", f"--Format={columns}")
    except Refused as error:
        if "Invalid job id specified" in str(error):
            return None
        raise
    rows = [row for row in map(_row, text.splitlines()) if name in (row.JobID, f"{row.ArrayJobID}_{row.ArrayTaskID}")]
    if len(rows) > 1 or (text.strip() and not rows):
        raise Silent("squeue answers something else than was asked")
    return rows[0] if rows else None


def _row(line: str) -> Row:
    cells, start = [], 0
    for width in _WIDTHS:
        cells.append(line[start : start + width].strip())
        start += width
    return Row(*cells)


def _run(state: str, submitted: str, began: str, ended: str) -> Run:
    life: Literal["alive", "dead", "unknown"]
    if state in ALIVE:
        life, words = "alive", ALIVE[state]
    elif state in ENDED:
        life, words = "dead", f"ended {state}"
    else:
        life, words = "unknown", f"is {state or 'in no state'}, which does not tell whether its processes go on"
    return Run(life, words, _time(submitted), _time(began), _time(ended))


def _time(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _check_cluster(job: Job, cluster: str) -> None:
    if job.cluster and job.cluster != cluster:
        raise Silent(
            f"{job} is of cluster {job.cluster}, and this is {cluster or 'a cluster without a name'}: ask there"
        )


def _remembered(job: Job, holder: Holder) -> Life:
    """What accounting knows: every run. The holder's is one that went on when it began, as far as clocks tell."""
    name = _name(job)
    try:
        text = ask(
            "sacct", *("--noheader", "--parsable2", "--allocations", "--duplicates"), f"--jobs={name}", ACCOUNTED
        )
    except Silent as silence:
        raise Silent(f"Slurm does not know job {name} any more, and cannot look it up: {silence}") from None
    told = [cells for line in text.splitlines() if len(cells := line.split("|")) == 8 and name in cells[1:3]]
    if not told:
        raise Silent(f"Slurm does not know job {name} any more, nor does its accounting")
    runs = []
    for cluster, _, _, state, submitted, began, ended, nodes in told:
        _check_cluster(job, cluster)
        state = state.partition(" ")[0]  # CANCELLED by 1000
        run = _run(state, submitted, began, ended)
        if state == "REQUEUED" and run.ended is not None:  # here, and not in squeue, that is a run which is over
            run = run._replace(life="dead", words="was requeued")
        runs.append((run, nodes))
    verdict = Life("unknown", "")
    for run, nodes in [each for each in runs if covers(each[0], holder)] or runs[-1:]:
        verdict = _confirmed(weigh(run, job, holder), holder, "" if is_later(run, holder) else nodes)
        if verdict.state != "dead":
            break
    return verdict


def _confirmed(verdict: Life, holder: Holder, among: str = "") -> Life:
    """The verdict, if the holder's node answers (and is `among` those of the job), so that an end there was seen."""
    if verdict.state != "dead":
        return verdict
    node = holder.node or host(holder.host)
    try:
        if _NODE.fullmatch(node) is None:
            raise Silent(f"{node!r} is no node")
        text = ask(
            "sinfo", "--noheader", "--Node", f"--nodes={among or node}", "--Format=NodeList:256,StateComplete:256"
        )
        state = {host(name): state for name, state in map(str.split, text.splitlines())}.get(host(node))
        if state is None:
            raise Silent(f"{node} is not one of its nodes, {among}" if among else f"Slurm knows no node {node}")
        if _ANSWERS.fullmatch(state.lower()) is None:
            raise Silent(f"its node {node} is {state}: what ran there may go on unseen")
    except Silent as doubt:
        return Life("unknown", f"{verdict.proof}, but {doubt}")
    return verdict
