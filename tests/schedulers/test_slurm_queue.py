"""What Slurm's controller proves: lines of squeue, printed by stubs, in every state and after restarts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from interlock import schedulers
from interlock.holder import Holder, Life
from interlock.world import Job
from schedulers.conftest import Stubs, recorded

Ask = Callable[[Holder], Life]
BEGAN = 1_795_271_152.0
HOLDER = Holder("node7", 1, scheduler="slurm", job_id="1", cluster="interlock", node="n1", since=BEGAN + 5)
STATES = {
    **dict.fromkeys(("RUNNING", "RESIZING", "SIGNALING", "SUSPENDED", "STOPPED", "COMPLETING", "STAGE_OUT"), "alive"),
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"), "alive"),
    **dict.fromkeys(("RESV_DEL_HOLD", "POWER_UP_NODE"), "alive"),
    **dict.fromkeys(("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED"), "dead"),
    **dict.fromkeys(("OUT_OF_MEMORY", "BOOT_FAIL"), "dead"),
    **dict.fromkeys(("NODE_FAIL", "REVOKED", "LAUNCH_FAILED", "NEW_STATE", ""), "unknown"),
}


def row(state: str = "RUNNING", *, restarts: int = 0, node: str = "n1", **times: float) -> str:
    """The recorded line with other cells."""
    cells = {"RUNNING": state, "0": str(restarts), "n1": node}
    for name, old in (("submitted", BEGAN - 1), ("began", BEGAN), ("ended", 1_826_807_152)):
        cells[f"{old:.0f}"] = f"{times.get(name, BEGAN + 60 if name == 'ended' else old):.0f}"

    def other(found: re.Match[str]) -> str:
        return cells.get(found[1], found[1]).ljust(len(found[0]))

    return re.sub(r"(\S+)( *)", other, recorded("squeue-running"))


@pytest.fixture(autouse=True)
def _nodes(stubs: Stubs) -> None:
    stubs.says("sinfo", recorded("sinfo-up").splitlines()[0])


@pytest.mark.parametrize(("word", "state"), STATES.items())
def test_slurm_s_states(stubs: Stubs, ask: Ask, word: str, state: str) -> None:
    """Each of them runs, has ended, or leaves it open what its processes do."""
    stubs.says("squeue", row(word))
    assert ask(HOLDER).state == state
    assert "--jobs=1" in stubs.called("squeue")


@pytest.mark.parametrize(
    ("state", "restarts", "verdict"),
    [
        ("COMPLETING", 1, "alive"),  # the holder's own run is being ended
        ("COMPLETING", 2, "dead"),  # the one after it is
        ("PENDING", 1, "dead"),
        ("RUNNING", 3, "dead"),
        ("NODE_FAIL", 1, "dead"),  # of a later run, while the holder's node answers
    ],
)
def test_a_later_run_proves_the_end_of_the_holder_s(
    stubs: Stubs, ask: Ask, state: str, restarts: int, verdict: str
) -> None:
    """Slurm starts a job again only when it has ended the run before, and writes a new time of submission."""
    stubs.says("squeue", row(state, restarts=restarts, submitted=BEGAN + 60, began=BEGAN + 120))
    assert ask(HOLDER).state == verdict


def test_restarts_must_fit_the_times(stubs: Stubs, ask: Ask) -> None:
    """A job that was requeued long before the holder began, or was restarted less often, is not the holder's."""
    stubs.says("squeue", row("PENDING", restarts=1))
    assert ask(HOLDER).state == "dead"
    assert ask(replace(HOLDER, since=BEGAN + 3600)).state == "unknown"
    assert ask(replace(HOLDER, since=0.0)).state == "unknown"
    stubs.says("squeue", row("COMPLETED"))
    assert ask(replace(HOLDER, restart=1)).state == "unknown"


def test_a_bare_id_tells_no_restart(stubs: Stubs, ask: Ask) -> None:
    """What a shell has noted down may be of any run, so a count of restarts says nothing about it; times may."""
    noted = replace(HOLDER, scheduler=None, cluster="")
    stubs.says("squeue", row("RUNNING", restarts=1))
    assert ask(noted).state == "alive"
    stubs.says("squeue", row("RUNNING", restarts=1, submitted=BEGAN + 3600, began=BEGAN + 3700))
    assert ask(noted).state == "dead"


def test_the_end_of_a_later_job_is_not_the_holder_s(stubs: Stubs, ask: Ask) -> None:
    """It ran elsewhere; its id proves that the holder's job is over, if the holder's node answers."""
    stubs.says("squeue", row("COMPLETED", node="n2", submitted=BEGAN + 3600, began=BEGAN + 3600, ended=BEGAN + 3700))
    assert ask(HOLDER).state == "dead"
    stubs.says("sinfo", recorded("sinfo-down"))
    assert ask(HOLDER).state == "unknown"


def test_only_the_job_s_own_line_is_believed(stubs: Stubs, ask: Ask) -> None:
    """squeue prints a whole array for the id of its last task; a task has an index and an id of its own."""
    stubs.says("squeue", recorded("squeue-array"))
    for named in ({"job_id": "2", "array_index": 3}, {"job_id": "2"}, {"job_id": "3"}):
        assert ask(replace(HOLDER, **named)).state == "alive"  # type: ignore[arg-type]
    stubs.says("squeue", recorded("squeue-array").replace("RUNNING  ", "COMPLETED", 1))
    assert ask(replace(HOLDER, job_id="2")).state == "dead"
    assert ask(replace(HOLDER, job_id="2", array_index=3)).state == "alive"
    assert ask(replace(HOLDER, job_id="2", array_index=5)).state == "unknown"


def test_only_a_time_limit_is_an_end(stubs: Stubs) -> None:
    """Slurm writes an end for every job that runs, a year away for those without a limit."""
    job = Job("slurm", "2", 3)
    stubs.says("squeue", recorded("squeue-array"))
    assert schedulers.ends_at(job) == 1_795_274_752
    for old, new in (("1:00:00  ", "UNLIMITED"), ("1795274752", "NONE      "), ("1795274752", "N/A       ")):
        stubs.says("squeue", recorded("squeue-array").replace(old, new))
        assert schedulers.ends_at(job) is None
